package main

import (
	"bufio"
	"fmt"
	"io"
)

// The file types of st_mode (inode(7)), which cpio writes as they are.
const (
	modeCharacter = 0o020000
	modeDirectory = 0o040000
	modeRegular   = 0o100000
	modeSticky    = 0o001000
)

// entry is one file of an archive. It belongs to root and has no time.
type entry struct {
	name         string // relative to the root, without a leading slash
	mode         uint32 // type and permissions, as in st_mode
	major, minor uint32 // the device, for a device node
	data         []byte
}

// trailer is the name of the entry that ends an archive.
const trailer = "TRAILER!!!"

// writeArchive writes entries as a cpio archive of the "newc" kind, the one that Linux unpacks into its first root file system
// (the kernel's Documentation/driver-api/early-userspace/buffer-format.rst). Inode numbers are the entries' places, so the
// archive depends on nothing but its entries.
func writeArchive(w io.Writer, entries []entry) error {
	out := &padder{w: bufio.NewWriter(w)}
	for i, e := range append(entries[:len(entries):len(entries)], entry{name: trailer}) {
		links := 1
		if e.mode&modeDirectory != 0 {
			links = 2
		}
		// magic, then thirteen numbers of eight hexadecimal digits: inode, mode, uid, gid, links, mtime, size, the device of
		// the file (two), the device that it is (two), length of the name with its zero byte, checksum (none in this kind).
		fmt.Fprintf(out, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
			i+1, e.mode, 0, 0, links, 0, len(e.data), 0, 0, e.major, e.minor, len(e.name)+1, 0)
		fmt.Fprintf(out, "%s\x00", e.name)
		out.align()
		out.Write(e.data)
		out.align()
	}
	return out.w.Flush()
}

// padder counts what is written, so that it can pad to the four bytes on which names' ends and data begin. Errors stay in the
// buffered writer until its Flush.
type padder struct {
	w       *bufio.Writer
	written int
}

func (p *padder) Write(data []byte) (int, error) {
	p.written += len(data)
	return p.w.Write(data)
}

func (p *padder) align() {
	p.Write(make([]byte, -p.written&3))
}
