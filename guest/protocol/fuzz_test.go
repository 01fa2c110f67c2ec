package protocol

import (
	"bytes"
	"encoding/json"
	"io"
	"runtime"
	"testing"
)

// seedMessages adds every message of the vectors, so that the fuzzer begins from all the shapes there are.
func seedMessages(f *testing.F, files ...string) {
	for _, file := range files {
		for _, row := range readVectors[messageVector](f, "testdata/messages/"+file+".jsonl") {
			f.Add([]byte(row.JSON))
		}
	}
	for _, row := range readVectors[struct{ Input string }](f, "testdata/messages/decode.jsonl") {
		f.Add([]byte(row.Input))
	}
}

// maxCostPerByte is the most bytes that are allocated, in all, to decode one byte: an empty text in a list is 3 bytes of input and
// 16 of memory, several times over where the list grows.
const maxCostPerByte = 64

// allocated is how many bytes the process allocates, in all, while f runs.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// fuzzRecode checks that whatever can be decoded can be encoded, that its JSON means the same, and that decoding costs no more
// memory than a multiple of the input.
func fuzzRecode(f *testing.F, recode func([]byte) ([]byte, error)) {
	f.Fuzz(func(t *testing.T, input []byte) {
		const fixed = 1 << 20 // the decoder itself, and what else runs in the process
		var once []byte
		var err error
		if cost := allocated(func() { once, err = recode(input) }); cost > fixed+maxCostPerByte*uint64(len(input)) {
			t.Errorf("%d bytes allocated for %d bytes", cost, len(input))
		}
		if err != nil {
			return
		}
		if !json.Valid(once) {
			t.Fatalf("encoded: %q", once)
		}
		twice, err := recode(once)
		if err != nil || !bytes.Equal(once, twice) {
			t.Errorf("encoded once:  %s\nencoded twice: %s, %v", once, twice, err)
		}
	})
}

func FuzzHostMessage(f *testing.F) {
	seedMessages(f, "host_message")
	f.Add([]byte(`{"type":"run","request_id":1,"command":[],"env":[],"spec":{"a":[1]},"streams":{"stdin":"` +
		`00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"},"size":{"cols":80,"rows":24}}`))
	f.Add([]byte(`{"type":"network","interfaces":[{"name":"eth0","mac":"02:00:00:00:00:01","mtu":1500,"addresses":["10.4.0.2/24",` +
		`"fd00::2/64"]}],"routes":[{"interface":"eth0","destination":"0.0.0.0/0","gateway":"10.4.0.1","on_link":true,"metric":7}],` +
		`"neighbors":[{"interface":"eth0","address":"fd00::1","mac":"02:00:00:00:00:02"}],"sysctls":[["net.ipv4.ip_forward","1"]]}`))
	f.Add([]byte(`{"type":"pod","hostname":"barnacle","sysctls":[["kernel.shmmax","1"]],` +
		`"uid_mappings":[{"container_id":0,"host_id":100000,"size":65536}],"gid_mappings":[]}`))
	f.Add([]byte(`{"type":"mount","source":"tmpfs","target":"/run/limpet/volumes/shm","fstype":"tmpfs","options":["size=65536"]}`))
	f.Add([]byte(`{"type":"plug","device":"disk","serial":"disk-1"}`))
	f.Add([]byte(`{"type":"ssh_agent","container_id":"c","port":6001}`))
	fuzzRecode(f, recode(HostMessages))
}

func FuzzGuestMessage(f *testing.F) {
	seedMessages(f, "guest_message")
	f.Add([]byte(`{"type":"hello","agent_version":"1","protocol_version":1,"boot_id":"b","cid":3,"last_ack":0}`))
	f.Add([]byte(`{"type":"pid_list","pids":[{"pid":1,"request_id":7},{"pid":2}]}`))
	f.Add([]byte(`{"type":"stats_report","memory_current":4096,"cpu_usage_nanos":1000,"pids_current":1,"memory_max":8192,` +
		`"memory_stat":[["anon",1],["file",2]],"memory_events":[["oom_kill",1]],"cpu_stat":[["usage_usec",1]],` +
		`"io_stat":[{"major":8,"minor":0,"counters":[["rbytes",1]]}]}`))
	f.Add([]byte(`{"type":"block_device","major":8,"minor":16}`))
	fuzzRecode(f, recode(GuestMessages))
}

func FuzzAgentRequest(f *testing.F) {
	seedMessages(f, "agent_request")
	fuzzRecode(f, recode(AgentRequests))
}

func FuzzAgentResponse(f *testing.F) {
	seedMessages(f, "agent_response")
	fuzzRecode(f, recode(AgentResponses))
}

func FuzzEnvelope(f *testing.F) {
	seedMessages(f, "envelope", "host_message", "agent_request")
	fuzzRecode(f, recodeEnvelope(HostMessages))
}

func FuzzEnvelopeOfRequest(f *testing.F) {
	seedMessages(f, "envelope", "agent_request")
	fuzzRecode(f, recodeEnvelope(AgentRequests))
}

func FuzzError(f *testing.F) {
	f.Add([]byte(`{"msg":"no such file","code":"NOT_FOUND"}`))
	f.Add([]byte(`{"msg":"` + "\u2028" + `"}`))
	fuzzRecode(f, func(data []byte) ([]byte, error) {
		e, err := decodeError(data)
		if err != nil {
			return nil, err
		}
		return e.encode()
	})
}

func FuzzFrame(f *testing.F) {
	for _, row := range readVectors[struct {
		FrameHex string `json:"frame_hex"`
		InputHex string `json:"input_hex"`
	}](f, "testdata/frames.jsonl") {
		f.Add(fromHex(f, row.FrameHex+row.InputHex))
	}
	f.Add(append(rawHeader(7, byte(Response)|errorFlag, 3, 2), "{}"...))
	f.Fuzz(func(t *testing.T, input []byte) {
		reader := NewReader(bytes.NewReader(input))
		reader.SetMaxPayload(MaxPayload)
		for {
			header, err := reader.ReadHeader()
			if err != nil {
				return
			}
			payload, err := reader.ReadPayload()
			if cap(reader.payload) > 2*len(input)+2*payloadStep {
				t.Errorf("%d bytes kept for %d bytes", cap(reader.payload), len(input))
			}
			if err != nil {
				return
			}
			var again bytes.Buffer
			if err := NewWriter(&again).Write(header, payload); err != nil {
				t.Fatal(err)
			}
			second := NewReader(&again)
			second.SetMaxPayload(MaxPayload)
			if h, err := second.ReadHeader(); err != nil || h != header {
				t.Errorf("%+v became %+v, %v", header, h, err)
			}
			if p, err := second.ReadPayload(); err != nil || !bytes.Equal(p, payload) {
				t.Errorf("payload %x became %x, %v", payload, p, err)
			}
		}
	})
}

func FuzzLength(f *testing.F) {
	for _, row := range readVectors[struct {
		InputHex string `json:"input_hex"`
	}](f, "testdata/messages/framing.jsonl") {
		f.Add(fromHex(f, row.InputHex))
	}
	f.Fuzz(func(t *testing.T, input []byte) {
		message, err := ReadMessage(bytes.NewReader(input))
		if cap(message) > 2*len(input)+2*payloadStep {
			t.Errorf("%d bytes allocated for %d bytes", cap(message), len(input))
		}
		if err != nil {
			return
		}
		var again bytes.Buffer
		if err := WriteMessage(&again, message); err != nil || !bytes.HasPrefix(input, again.Bytes()) {
			t.Errorf("%x became %x, %v", input, again.Bytes(), err)
		}
	})
}

func FuzzPreamble(f *testing.F) {
	for _, row := range readVectors[struct{ Hex string }](f, "testdata/streams.jsonl") {
		f.Add(fromHex(f, row.Hex))
	}
	for _, p := range preambles {
		var b bytes.Buffer
		if err := WritePreamble(&b, p); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
	}
	f.Fuzz(func(t *testing.T, input []byte) {
		source := bytes.NewReader(input)
		p, err := ReadPreamble(source)
		if err != nil {
			return
		}
		taken := input[:len(input)-source.Len()]
		var again bytes.Buffer
		if err := WritePreamble(&again, p); err != nil || !bytes.Equal(again.Bytes(), taken) {
			t.Errorf("%x became %x, %v", taken, again.Bytes(), err)
		}
	})
}

func FuzzStatus(f *testing.F) {
	f.Add([]byte{statusOK})
	f.Add([]byte("\x01\x00\x07no such"))
	f.Add([]byte{2})
	f.Fuzz(func(t *testing.T, input []byte) {
		source := bytes.NewReader(input)
		if err := ReadStatus(source); err == nil && source.Len() != len(input)-1 {
			t.Errorf("%d bytes left of %d", source.Len(), len(input))
		}
		if path, err := ReadOutputPath(bytes.NewReader(input)); err == nil {
			if err := WriteOutputPath(io.Discard, path); err != nil {
				t.Error(err)
			}
		}
	})
}

func FuzzDuplex(f *testing.F) {
	f.Add([]byte("\x00\x01a\x00\x02bc\x00\x00"))
	f.Add([]byte("\x00\x02a"))
	f.Add([]byte{0x3d, 0xff})
	f.Fuzz(func(t *testing.T, input []byte) {
		text, err := io.ReadAll(NewDuplex(&canned{Reader: bytes.NewReader(input)}, nil))
		if len(text) > len(input) {
			t.Errorf("%d bytes became %d", len(input), len(text))
		}
		if err != nil {
			return
		}
		again := &canned{}
		d := NewDuplex(nil, again)
		if _, err := d.Write(text); err != nil {
			t.Fatal(err)
		}
		if err := d.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if twice, err := io.ReadAll(NewDuplex(&canned{Reader: &again.told}, nil)); err != nil || !bytes.Equal(twice, text) {
			t.Errorf("%x became %x, %v", text, twice, err)
		}
	})
}

func FuzzListeners(f *testing.F) {
	f.Add([]byte("\x00\x02\x00\x50\x00\xff\xff\x01"))
	f.Add([]byte("\x01\x01\x00"))
	f.Fuzz(func(t *testing.T, input []byte) {
		source := bytes.NewReader(input)
		listeners, err := ReadListeners(source)
		if err != nil {
			return
		}
		var again bytes.Buffer
		if err := WriteListeners(&again, listeners); err != nil || !bytes.Equal(again.Bytes(), input[:len(input)-source.Len()]) {
			t.Errorf("%x became %x, %v", input, again.Bytes(), err)
		}
	})
}

func FuzzToken(f *testing.F) {
	f.Add([]byte("00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"))
	f.Add([]byte("0011"))
	f.Fuzz(func(t *testing.T, input []byte) {
		var token, again Token
		if err := token.UnmarshalText(input); err != nil {
			return
		}
		text, err := token.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		if err := again.UnmarshalText(text); err != nil || again != token || !bytes.EqualFold(text, input) {
			t.Errorf("%q became %q, %v", input, text, err)
		}
	})
}
