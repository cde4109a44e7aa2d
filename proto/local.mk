# SPDX-License-Identifier: Apache-2.0
# The wire contract: protobuf-c code, and the descriptor set that server reflection serves.
PROTO_FILES = proto/expertd/experts.proto proto/expertd/router.proto proto/expertd/admin.proto proto/expertd/accounts.proto proto/expertd/topups.proto \
	proto/grpc/health/v1/health.proto proto/grpc/reflection/v1/reflection.proto proto/grpc/reflection/v1alpha/reflection.proto
# Services of others, that we only call: not in the descriptor set.
PROTO_CALLED = proto/etcd/kv.proto proto/etcd/rpc.proto
EXTRA_DIST += $(PROTO_FILES) $(PROTO_CALLED)
PROTO_C = $(PROTO_FILES:.proto=.pb-c.c) $(PROTO_CALLED:.proto=.pb-c.c)
PROTO_H = $(PROTO_FILES:.proto=.pb-c.h) $(PROTO_CALLED:.proto=.pb-c.h)
nodist_libexpertd_la_SOURCES += $(PROTO_C) proto/descriptors.c
BUILT_SOURCES += $(PROTO_H)
CLEANFILES += $(PROTO_C) $(PROTO_H) proto/descriptors.c proto/descriptors.pb

%.pb-c.c %.pb-c.h : %.proto
	$(AM_V_GEN)$(MKDIR_P) proto && $(PROTOC_C) --proto_path=$(top_srcdir)/proto --c_out=proto $<

proto/descriptors.pb: $(PROTO_FILES)
	$(AM_V_GEN)$(MKDIR_P) proto && $(PROTOC) --proto_path=$(top_srcdir)/proto --include_imports --descriptor_set_out=$@ \
		$(patsubst %,$(top_srcdir)/%,$(PROTO_FILES))
# const unsigned char ex_descriptors[]; const size_t ex_descriptors_size;
proto/descriptors.c: proto/descriptors.pb
	$(AM_V_GEN)( echo '#include <stddef.h>'; echo 'extern const unsigned char ex_descriptors[]; extern const size_t ex_descriptors_size;'; \
	  echo 'const unsigned char ex_descriptors[] = {'; od -An -v -tu1 $< | $(SED) 's/  */,/g;s/^,//;s/$$/,/'; \
	  echo '};'; echo 'const size_t ex_descriptors_size = sizeof ex_descriptors;' ) > $@
