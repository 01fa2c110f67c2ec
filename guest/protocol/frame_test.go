package protocol

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/containerd/errdefs"
)

// rawHeader makes a header of any number of words, of which those after the third count up from 1.
func rawHeader(words byte, flagsAndType, opcode byte, length uint32) []byte {
	b := []byte{0, 2, words, 0, 0, 0, flagsAndType, opcode}
	b = binary.BigEndian.AppendUint32(b, length)
	for i := uint32(1); len(b) < int(words)*wordSize; i++ {
		b = binary.BigEndian.AppendUint32(b, i)
	}
	return b
}

func TestReaderHeaderLengths(t *testing.T) {
	for words, callID := range map[byte]uint64{3: 0, 4: 0, 5: 1<<32 | 2, 6: 1<<32 | 2, 255: 1<<32 | 2} {
		input := append(rawHeader(words, byte(Response), 1, 3), "abc"...)
		for name, r := range map[string]io.Reader{
			"whole":   bytes.NewReader(input),
			"by byte": iotest.OneByteReader(bytes.NewReader(input)),
		} {
			reader := NewReader(r)
			header, err := reader.ReadHeader()
			if want := (Header{Type: Response, Opcode: 1, Length: 3, CallID: callID}); err != nil || header != want {
				t.Fatalf("%d words, %s: %+v, %v; want %+v", words, name, header, err, want)
			}
			if payload, err := reader.ReadPayload(); err != nil || string(payload) != "abc" {
				t.Errorf("%d words, %s: payload %q, %v", words, name, payload, err)
			}
			if _, err := reader.ReadHeader(); err != io.EOF {
				t.Errorf("%d words, %s: at the end: %v", words, name, err)
			}
		}
	}
}

func TestReaderRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		input []byte
		want  error
	}{
		"nothing":                {nil, io.EOF},
		"part of a header":       {rawHeader(5, 0, 0, 0)[:7], io.ErrUnexpectedEOF},
		"part of a long header":  {rawHeader(9, 0, 0, 0)[:20], io.ErrUnexpectedEOF},
		"two words":              {rawHeader(2, 0, 0, 0), errdefs.ErrInvalidArgument},
		"no words":               {rawHeader(0, 0, 0, 0), errdefs.ErrInvalidArgument},
		"unknown command":        {rawHeader(5, byte(Command), byte(len(commandNames)), 0), errdefs.ErrInvalidArgument},
		"unknown notification":   {rawHeader(5, byte(Notification), byte(len(notificationNames)), 0), errdefs.ErrInvalidArgument},
		"unknown stream":         {rawHeader(5, byte(Stream), streamCount, 0), errdefs.ErrInvalidArgument},
		"unknown type":           {rawHeader(5, 4, 0, 0), errdefs.ErrInvalidArgument},
		"payload above the most": {rawHeader(5, 0, 0, MaxPayloadBeforeAuth+1), errdefs.ErrInvalidArgument},
		"part of a payload":      {rawHeader(5, 0, 0, MaxPayloadBeforeAuth), io.ErrUnexpectedEOF},
	} {
		t.Run(name, func(t *testing.T) {
			if header, _, err := readOne(test.input, opcodes); !errors.Is(err, test.want) {
				t.Errorf("got %+v, %v; want %v", header, err, test.want)
			}
		})
	}
}

// A header that promises the largest payload and brings little must not cost the memory that it promises.
func TestReaderBelievesNoLength(t *testing.T) {
	payload, err := readGrowing(bytes.NewReader(make([]byte, 100)), nil, MaxPayload)
	if !errors.Is(err, io.ErrUnexpectedEOF) || len(payload) != 100 || cap(payload) > 2*payloadStep {
		t.Errorf("%d bytes read, %d allocated, %v", len(payload), cap(payload), err)
	}
}

func TestReaderGoesOnAfterTimeout(t *testing.T) {
	input := append(rawHeader(5, 0, 1, 2), "ok"...)
	reader := NewReader(iotest.TimeoutReader(iotest.OneByteReader(bytes.NewReader(input))))
	if _, err := reader.ReadHeader(); !errors.Is(err, iotest.ErrTimeout) {
		t.Fatal(err)
	}
	if header, err := reader.ReadHeader(); err != nil || header.Opcode != 1 {
		t.Errorf("%+v, %v", header, err)
	}
}

func TestReaderWantsPayloadRead(t *testing.T) {
	reader := NewReader(bytes.NewReader(append(rawHeader(5, 0, 1, 2), "ok"...)))
	if _, err := reader.ReadHeader(); err != nil {
		t.Fatal(err)
	}
	if _, err := reader.ReadHeader(); err == nil {
		t.Error("a header was read out of a payload")
	}
}

// sizes records the sizes of writes.
type sizes struct {
	bytes.Buffer
	most int
}

func (s *sizes) Write(b []byte) (int, error) {
	s.most = max(s.most, len(b))
	return s.Buffer.Write(b)
}

func TestWriterRoundTrip(t *testing.T) {
	for _, size := range []int{0, 1, MaxWrite - headerSize, MaxWrite - headerSize + 1, MaxWrite, payloadKeep + 3, MaxPayload} {
		payload := []byte(strings.Repeat("limpet.", size/7+1)[:size])
		want := Header{Type: Response, Error: true, Opcode: 3, CallID: 1<<63 + 5, Length: uint32(size)}
		var out sizes
		if err := NewWriter(&out).Write(want, payload); err != nil {
			t.Fatal(err)
		}
		if out.most > MaxWrite {
			t.Errorf("%d bytes: a write of %d", size, out.most)
		}
		reader := NewReader(&out)
		reader.SetMaxPayload(MaxPayload)
		if header, err := reader.ReadHeader(); err != nil || header != want {
			t.Errorf("%d bytes: %+v, %v", size, header, err)
		}
		if got, err := reader.ReadPayload(); err != nil || !bytes.Equal(got, payload) {
			t.Errorf("%d bytes: payload differs: %v", size, err)
		}
	}
	if err := NewWriter(io.Discard).Write(Header{}, make([]byte, MaxPayload+1)); err == nil {
		t.Error("a payload above the most was written")
	}
}

const benchmarkPayload = 32 << 10

func TestFramesAllocateNothing(t *testing.T) {
	payload := make([]byte, benchmarkPayload)
	writer := NewWriter(io.Discard)
	if n := testing.AllocsPerRun(100, func() {
		if err := writer.Write(Header{Type: Stream}, payload); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations per frame written", n)
	}
	source := loop(t, payload)
	reader := NewReader(source)
	reader.SetMaxPayload(MaxPayload)
	if n := testing.AllocsPerRun(100, func() { readFrame(t, reader) }); n != 0 {
		t.Errorf("%v allocations per frame read", n)
	}
}

func BenchmarkFrameWrite(b *testing.B) {
	payload := make([]byte, benchmarkPayload)
	var memory [benchmarkPayload + headerSize]byte
	writer := NewWriter(&ring{memory: memory[:]})
	b.SetBytes(benchmarkPayload)
	b.ReportAllocs()
	for b.Loop() {
		if err := writer.Write(Header{Type: Stream}, payload); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkFrameRead(b *testing.B) {
	reader := NewReader(loop(b, make([]byte, benchmarkPayload)))
	reader.SetMaxPayload(MaxPayload)
	b.SetBytes(benchmarkPayload)
	b.ReportAllocs()
	for b.Loop() {
		readFrame(b, reader)
	}
}

func readFrame(t testing.TB, reader *Reader) {
	if _, err := reader.ReadHeader(); err != nil {
		t.Fatal(err)
	}
	if _, err := reader.ReadPayload(); err != nil {
		t.Fatal(err)
	}
}

// ring is memory that is written and read round and round.
type ring struct {
	memory []byte
	at     int
}

func (r *ring) Write(b []byte) (int, error) {
	for rest := b; len(rest) > 0; {
		n := copy(r.memory[r.at:], rest)
		rest, r.at = rest[n:], (r.at+n)%len(r.memory)
	}
	return len(b), nil
}

func (r *ring) Read(b []byte) (int, error) {
	n := copy(b, r.memory[r.at:])
	r.at = (r.at + n) % len(r.memory)
	return n, nil
}

// loop is a source of the same frame, again and again.
func loop(t testing.TB, payload []byte) *ring {
	var frame bytes.Buffer
	if err := NewWriter(&frame).Write(Header{Type: Stream}, payload); err != nil {
		t.Fatal(err)
	}
	return &ring{memory: frame.Bytes()}
}
