package main

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/limpet-run/limpet/guest/protocol"
)

// codecPayload is the size of a frame's payload.
const codecPayload = 32 << 10

// codec measures frames that are written to memory and read from it.
func (b *bench) codec() ([]row, error) {
	b.progress("frame codec")
	frame := new(bytes.Buffer)
	header, payload := protocol.Header{Type: protocol.Stream}, make([]byte, codecPayload)
	if err := protocol.NewWriter(frame).Write(header, payload); err != nil {
		return nil, err
	}
	var failure error
	buffer := new(bytes.Buffer)
	writer := protocol.NewWriter(buffer)
	write := func() {
		buffer.Reset()
		failure = writer.Write(header, payload)
	}
	reader := protocol.NewReader(&loop{data: frame.Bytes()})
	reader.SetMaxPayload(codecPayload)
	read := func() {
		if _, failure = reader.ReadHeader(); failure == nil {
			_, failure = reader.ReadPayload()
		}
	}
	writes, writeAllocs, err := b.rate(write, &failure)
	if err != nil {
		return nil, fmt.Errorf("write frames: %w", err)
	}
	reads, _, err := b.rate(read, &failure)
	if err != nil {
		return nil, fmt.Errorf("read frames: %w", err)
	}
	return []row{
		{Name: "frames of 32 KiB written", Unit: "frames/s", Limpet: writes, Aim: "> 30518 (1 GB/s)"},
		{Name: "allocations per frame written", Unit: "", Limpet: writeAllocs, Aim: "0"},
		{Name: "frames of 32 KiB read", Unit: "frames/s", Limpet: reads, Aim: "> 30518 (1 GB/s)"},
	}, nil
}

// rate runs an operation for a while, as often as there are runs, and returns how often a second it was done and how many
// allocations each time took.
func (b *bench) rate(operation func(), failure *error) (rates, allocations series, err error) {
	for range b.runs {
		result := testing.Benchmark(func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				operation()
				if *failure != nil {
					b.FailNow()
				}
			}
		})
		if *failure != nil {
			return nil, nil, *failure
		}
		rates = append(rates, float64(result.N)/result.T.Seconds())
		allocations = append(allocations, float64(result.AllocsPerOp()))
	}
	return rates, allocations, nil
}

// loop reads the same bytes again and again.
type loop struct {
	data []byte
	next int
}

func (l *loop) Read(p []byte) (int, error) {
	n := copy(p, l.data[l.next:])
	l.next = (l.next + n) % len(l.data)
	return n, nil
}
