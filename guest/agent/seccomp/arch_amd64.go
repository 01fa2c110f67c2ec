package seccomp

import "golang.org/x/sys/unix"

// auditArch is the only architecture whose system calls this kernel takes.
const auditArch = unix.AUDIT_ARCH_X86_64
