# SPDX-License-Identifier: Apache-2.0
"""Certificates for tests, made by the openssl command: an authority, and what it signs."""

import os
import shutil
import subprocess

from fleet import Failure, Skip


def openssl(*args):
    p = subprocess.run(["openssl", *args], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    if p.returncode:
        raise Failure(f"openssl {' '.join(args)}: {p.stderr.strip()}")


class Authority:
    """Files DIRECTORY/NAME.crt and .key, and certificates beside them."""

    def __init__(self, directory, name="ca"):
        if not shutil.which("openssl"):
            raise Skip("the openssl command is not installed")
        self.dir, self.name = directory, name
        os.makedirs(directory, exist_ok=True)
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30",
                "-subj", f"/CN={name}", "-keyout", self.path(".key"), "-out", self.crt)

    def path(self, suffix):
        return os.path.join(self.dir, self.name + suffix)

    @property
    def crt(self):
        return self.path(".crt")

    def sign(self, name, san=None, days="30", into=None):
        """A key and a certificate of `san` (default DNS:NAME); the configuration keys that name them. days: may be negative."""
        base = os.path.join(into or self.dir, name)
        openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}",
                "-keyout", base + ".key.new", "-out", base + ".csr")
        with open(base + ".ext", "w", encoding="utf-8") as f:
            f.write(f"subjectAltName={san or 'DNS:' + name}\nextendedKeyUsage=serverAuth,clientAuth\n")
        openssl("x509", "-req", "-in", base + ".csr", "-CA", self.crt, "-CAkey", self.path(".key"), "-CAcreateserial",
                "-days", str(days), "-extfile", base + ".ext", "-out", base + ".crt.new")
        for suffix in (".key", ".crt"):
            os.rename(base + suffix + ".new", base + suffix)
        return {"cert": base + ".crt", "key": base + ".key", "ca": self.crt}


def authority(case, name):
    return Authority(os.path.join(case.dir, "pki", name), name)


def loopback(ca):
    """Keys of a server at 127.0.0.1."""
    return ca.sign("server", "IP:127.0.0.1")


def renew(ca, case, name, san=None):
    """Files for the daemon `name` in a directory of its own, the CA's among them; again: in place of those that are there."""
    into = os.path.join(case.dir, "pki", "of-" + name)
    os.makedirs(into, exist_ok=True)
    keys = ca.sign(name, san, into=into)
    shutil.copyfile(ca.crt, os.path.join(into, "ca.crt.new"))
    os.rename(os.path.join(into, "ca.crt.new"), os.path.join(into, "ca.crt"))
    return {**keys, "ca": os.path.join(into, "ca.crt")}
