/* SPDX-License-Identifier: Apache-2.0 */
/* Reads ELF headers of a file that may be anything. Layer L2. */
#include "expert/elf.h"

#include <elf.h>
#include <string.h>

#if defined __x86_64__
#define MACHINE EM_X86_64
#elif defined __aarch64__
#define MACHINE EM_AARCH64
#else
#error "name this machine's EM_ constant"
#endif
#define SYMBOLS_MAX (1u << 20)

/* n items of `size` bytes at offset lie within the file. */
static bool has(const struct ex_elf *elf, uint64_t offset, uint64_t n, uint64_t size)
{
	uint64_t bytes, end;
	return !__builtin_mul_overflow(n, size, &bytes) && !__builtin_add_overflow(offset, bytes, &end) &&
	       end <= elf->size;
}

static Elf64_Ehdr header(const struct ex_elf *elf)
{
	Elf64_Ehdr h;
	memcpy(&h, elf->data, sizeof h);
	return h;
}

static Elf64_Phdr segment(const struct ex_elf *elf, const Elf64_Ehdr *h, uint32_t i)
{
	Elf64_Phdr p;
	memcpy(&p, elf->data + h->e_phoff + i * sizeof p, sizeof p);
	return p;
}

static Elf64_Shdr section(const struct ex_elf *elf, const Elf64_Ehdr *h, uint32_t i)
{
	Elf64_Shdr s;
	memcpy(&s, elf->data + h->e_shoff + i * sizeof s, sizeof s);
	return s;
}

int ex_elf_check(const struct ex_elf *elf, const char *path, struct ex_err *err)
{
	if (elf->size < SELFMAG || memcmp(elf->data, ELFMAG, SELFMAG) != 0)
		return ex_err_set(err, -ENOEXEC, "plugin '%s' is not an ELF file", path);
	if (elf->size < sizeof(Elf64_Ehdr))
		return ex_err_set(err, -ENOEXEC, "plugin '%s' is truncated: its ELF header is cut", path);
	Elf64_Ehdr h = header(elf);
	if (h.e_ident[EI_CLASS] != ELFCLASS64 || h.e_ident[EI_DATA] != ELFDATA2LSB || h.e_machine != MACHINE)
		return ex_err_set(err, -ENOEXEC, "plugin '%s' is built for another machine (ELF machine %u, here %u)",
			path, h.e_machine, MACHINE);
	if (h.e_type != ET_DYN)
		return ex_err_set(err, -ENOEXEC, "plugin '%s' is not a shared object (ELF type %u)", path, h.e_type);
	if (h.e_phentsize != sizeof(Elf64_Phdr) || (h.e_shnum && h.e_shentsize != sizeof(Elf64_Shdr)))
		return ex_err_set(err, -ENOEXEC, "plugin '%s' has ELF tables of unknown form", path);
	if (!has(elf, h.e_phoff, h.e_phnum, sizeof(Elf64_Phdr)) || !has(elf, h.e_shoff, h.e_shnum, sizeof(Elf64_Shdr)))
		return ex_err_set(err, -ENOEXEC, "plugin '%s' is truncated: its ELF tables end beyond its %zu bytes",
			path, elf->size);
	for (uint32_t i = 0; i < h.e_phnum; i++) {
		Elf64_Phdr p = segment(elf, &h, i);
		if (p.p_type == PT_LOAD && !has(elf, p.p_offset, p.p_filesz, 1))
			return ex_err_set(err, -ENOEXEC,
				"plugin '%s' is truncated: a segment ends beyond its %zu bytes", path, elf->size);
	}
	return 0;
}

/* Bytes [n] at a virtual address; NULL when the file does not hold them. */
static const uint8_t *at_address(const struct ex_elf *elf, const Elf64_Ehdr *h, uint64_t address, uint64_t n)
{
	for (uint32_t i = 0; i < h->e_phnum; i++) {
		Elf64_Phdr p = segment(elf, h, i);
		if (p.p_type == PT_LOAD && address >= p.p_vaddr && address - p.p_vaddr <= p.p_filesz &&
			n <= p.p_filesz - (address - p.p_vaddr))
			return elf->data + p.p_offset + (address - p.p_vaddr);
	}
	return NULL;
}

const uint8_t *ex_elf_symbol(const struct ex_elf *elf, const char *name, size_t n)
{
	Elf64_Ehdr h = header(elf);
	for (uint32_t i = 0; i < h.e_shnum; i++) {
		Elf64_Shdr s = section(elf, &h, i);
		if (s.sh_type != SHT_DYNSYM || s.sh_link >= h.e_shnum || s.sh_size / sizeof(Elf64_Sym) > SYMBOLS_MAX)
			continue;
		Elf64_Shdr names = section(elf, &h, s.sh_link);
		if (!has(elf, s.sh_offset, s.sh_size, 1) || !has(elf, names.sh_offset, names.sh_size, 1))
			continue;
		for (uint64_t k = 0; k < s.sh_size / sizeof(Elf64_Sym); k++) {
			Elf64_Sym sym;
			memcpy(&sym, elf->data + s.sh_offset + k * sizeof sym, sizeof sym);
			if (sym.st_shndx != SHN_UNDEF && ELF64_ST_TYPE(sym.st_info) == STT_OBJECT && sym.st_size >= n &&
				sym.st_name < names.sh_size && strlen(name) < names.sh_size - sym.st_name &&
				memcmp(elf->data + names.sh_offset + sym.st_name, name, strlen(name) + 1) == 0)
				return at_address(elf, &h, sym.st_value, n);
		}
	}
	return NULL;
}

size_t ex_elf_build_id(const struct ex_elf *elf, uint8_t out[static EX_ELF_BUILD_ID_MAX])
{
	Elf64_Ehdr h = header(elf);
	for (uint32_t i = 0; i < h.e_phnum; i++) {
		Elf64_Phdr p = segment(elf, &h, i);
		if (p.p_type != PT_NOTE || !has(elf, p.p_offset, p.p_filesz, 1))
			continue;
		uint64_t at = p.p_offset, end = p.p_offset + p.p_filesz;
		while (end - at >= sizeof(Elf64_Nhdr)) {
			Elf64_Nhdr note;
			memcpy(&note, elf->data + at, sizeof note);
			uint64_t name = at + sizeof note, desc = name + EX_ALIGN_UP((uint64_t)note.n_namesz, 4);
			uint64_t next = desc + EX_ALIGN_UP((uint64_t)note.n_descsz, 4);
			if (next > end)
				break;
			if (note.n_type == NT_GNU_BUILD_ID && note.n_namesz == 4 &&
				memcmp(elf->data + name, "GNU", 4) == 0) {
				size_t n = EX_MIN(note.n_descsz, (uint32_t)EX_ELF_BUILD_ID_MAX);
				memcpy(out, elf->data + desc, n);
				return n;
			}
			at = next;
		}
	}
	return 0;
}
