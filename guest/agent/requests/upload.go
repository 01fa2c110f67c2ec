package requests

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/protocol"
)

// defaultMode is the mode of a file for which none is asked.
const defaultMode = 0o644

// upload is a file on its way: a staging file beside the place where it will be.
type upload struct {
	place   place
	dir     *os.File // of the place, as a path
	staging string   // its name in dir
	file    *os.File
	mode    uint32
	size    uint64 // bytes
	written uint64
}

// fileWrite writes a small file.
func (c *conn) fileWrite(r protocol.FileWriteRequest) (protocol.AgentResponse, error) {
	if len(r.Data) > protocol.FileChunk {
		return nil, invalid("%d bytes: one request may write %d: begin an upload for more", len(r.Data), protocol.FileChunk)
	}
	u, err := beginUpload(c.server.root, r.Path, r.Mode, uint64(len(r.Data)))
	if err != nil {
		return nil, err
	}
	if err = u.add(r.Data); err == nil {
		err = u.finish()
	}
	if err != nil {
		u.abort()
		return nil, err
	}
	return protocol.OKResponse{}, nil
}

// fileWriteBegin begins an upload, which ends with its last chunk, with an error, with another request or with the connection.
func (c *conn) fileWriteBegin(r protocol.FileWriteBeginRequest) (protocol.AgentResponse, error) {
	u, err := beginUpload(c.server.root, r.Path, r.Mode, r.TotalSize)
	if err != nil {
		return nil, err
	}
	c.upload = u
	return protocol.OKResponse{}, nil
}

// fileWriteChunk goes on with the upload.
func (c *conn) fileWriteChunk(r protocol.FileWriteChunkRequest) (protocol.AgentResponse, error) {
	u := c.upload
	if u == nil {
		return nil, invalid("no upload was begun on this connection, or it has failed")
	}
	err := u.add(r.Data)
	if err == nil && r.Done {
		err = u.finish()
	}
	if err != nil {
		c.abortUpload()
		return nil, err
	}
	if r.Done {
		c.upload = nil
	}
	return protocol.OKResponse{}, nil
}

// abortUpload ends the upload that was begun, if there is one.
func (c *conn) abortUpload() {
	if c.upload != nil {
		c.upload.abort()
		c.upload = nil
	}
}

// beginUpload makes the staging file.
func beginUpload(roots Roots, path string, mode *uint32, size uint64) (_ *upload, err error) {
	place, err := parsePath(path)
	if err != nil {
		return nil, err
	}
	u := &upload{place: place, mode: defaultMode, size: size, staging: ".limpet-" + rand.Text()}
	if mode != nil {
		u.mode = *mode
	}
	switch {
	case u.mode&^0o7777 != 0:
		return nil, invalid("mode %o: want permission bits", u.mode)
	case size > protocol.MaxFile:
		return nil, invalid("a file of %d bytes: the most is %d", size, uint64(protocol.MaxFile))
	}
	if u.dir, err = place.open(roots, true); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			u.dir.Close()
		}
	}()
	if err := u.checkTarget(); err != nil {
		return nil, err
	}
	fd, err := unix.Openat(int(u.dir.Fd()), u.staging, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, place.error(err)
	}
	u.file = os.NewFile(uintptr(fd), path)
	return u, nil
}

// checkTarget refuses to put a file in the place of something that is none.
func (u *upload) checkTarget() error {
	var stat unix.Stat_t
	err := unix.Fstatat(int(u.dir.Fd()), u.place.name(), &stat, unix.AT_SYMLINK_NOFOLLOW)
	switch {
	case err == unix.ENOENT:
		return nil
	case err != nil:
		return u.place.error(err)
	}
	switch stat.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return nil
	case unix.S_IFDIR:
		return u.place.error(unix.EISDIR)
	case unix.S_IFLNK:
		return u.place.error(errors.New("it is a symbolic link, which is not followed"))
	}
	return u.place.error(errors.New("it is no regular file"))
}

// add writes more of the file.
func (u *upload) add(data []byte) error {
	switch {
	case len(data) > protocol.FileChunk:
		return invalid("chunk of %d bytes: the most is %d", len(data), protocol.FileChunk)
	case u.written+uint64(len(data)) > u.size:
		return invalid("upload of %s: more than the %d bytes that were announced", u.place.path, u.size)
	}
	if _, err := u.file.Write(data); err != nil {
		return u.place.error(err)
	}
	u.written += uint64(len(data))
	return nil
}

// finish puts the file in its place, on the disk.
func (u *upload) finish() error {
	if u.written != u.size {
		return invalid("upload of %s: %d bytes, and %d were announced", u.place.path, u.written, u.size)
	}
	err := unix.Fchmod(int(u.file.Fd()), u.mode)
	if err == nil {
		err = u.file.Sync()
	}
	if err == nil {
		err = unix.Renameat(int(u.dir.Fd()), u.staging, int(u.dir.Fd()), u.place.name())
	}
	if err != nil {
		return u.place.error(err)
	}
	u.file.Close()
	defer u.dir.Close()
	return u.syncDir()
}

// syncDir puts the new name on the disk.
func (u *upload) syncDir() error {
	dir, err := reopen(u.dir, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return u.place.error(err)
	}
	defer dir.Close()
	if err := dir.Sync(); err != nil && !errors.Is(err, unix.EINVAL) { // not every file system has something to put on a disk
		return u.place.error(err)
	}
	return nil
}

// abort removes what was written.
func (u *upload) abort() {
	u.file.Close()
	_ = unix.Unlinkat(int(u.dir.Fd()), u.staging, 0) // it may be in its place already
	u.dir.Close()
}

// reopen opens for use what is open as a path.
func reopen(file *os.File, flags int) (*os.File, error) {
	return os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", file.Fd()), flags, 0)
}
