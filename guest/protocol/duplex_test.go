package protocol

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/containerd/errdefs"
)

// canned is a connection that says something and is told something.
type canned struct {
	net.Conn
	io.Reader
	told bytes.Buffer
	most int // bytes of one write
}

func (c *canned) Read(p []byte) (int, error) { return c.Reader.Read(p) }

func (c *canned) Write(p []byte) (int, error) {
	c.most = max(c.most, len(p))
	return c.told.Write(p)
}

func TestDuplexWrites(t *testing.T) {
	conn := &canned{}
	d := NewDuplex(nil, conn)
	long := strings.Repeat("x", 2*maxChunk+1)
	for _, text := range []string{"abc", "", long} {
		if n, err := io.WriteString(d, text); n != len(text) || err != nil {
			t.Fatal(n, err)
		}
	}
	for range 2 {
		if err := d.CloseWrite(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := io.WriteString(d, "late"); err == nil {
		t.Error("written behind the end")
	}
	want := "\x00\x03abc" + "\x3d\xfe" + long[:maxChunk] + "\x3d\xfe" + long[:maxChunk] + "\x00\x01x" + "\x00\x00"
	if conn.told.String() != want || conn.most > MaxWrite {
		t.Errorf("%d bytes written, at most %d at once; want %d", conn.told.Len(), conn.most, len(want))
	}
	again := NewDuplex(&canned{Reader: iotest.OneByteReader(&conn.told)}, nil)
	if text, err := io.ReadAll(again); string(text) != "abc"+long || err != nil {
		t.Errorf("read %d bytes, %v", len(text), err)
	}
}

func TestDuplexReads(t *testing.T) {
	for _, test := range []struct {
		name, input, want string
		is                error
	}{
		{"nothing", "\x00\x00", "", nil},
		{"chunks", "\x00\x01a\x00\x02bc\x00\x00", "abc", nil},
		{"behind the end", "\x00\x01a\x00\x00\x00\x01b", "a", nil},
		{"reset at once", "", "", io.ErrUnexpectedEOF},
		{"reset between chunks", "\x00\x01a", "a", io.ErrUnexpectedEOF},
		{"reset in a length", "\x00\x01a\x00", "a", io.ErrUnexpectedEOF},
		{"reset in a chunk", "\x00\x02a", "a", io.ErrUnexpectedEOF},
		{"too long", "\x3d\xff" + strings.Repeat("x", maxChunk+1), "", errdefs.ErrInvalidArgument},
	} {
		d := NewDuplex(&canned{Reader: strings.NewReader(test.input)}, nil)
		if text, err := io.ReadAll(d); string(text) != test.want || !errors.Is(err, test.is) {
			t.Errorf("%s: read %q, %v", test.name, text, err)
		}
	}
}
