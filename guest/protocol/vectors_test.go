package protocol

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"reflect"
	"testing"
)

// readVectors reads a file of one JSON object per line; a test that ran none of them would prove nothing.
func readVectors[T any](t testing.TB, path string) []T {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var rows []T
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var row T
		if err := json.Unmarshal(lines.Bytes(), &row); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		rows = append(rows, row)
	}
	if err := lines.Err(); err != nil || len(rows) == 0 {
		t.Fatalf("%s: %d rows: %v", path, len(rows), err)
	}
	return rows
}

func fromHex(t testing.TB, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// messageVector is a row of the files of whole messages.
type messageVector struct {
	Name, Type, JSON string
	FrameHex         string `json:"frame_hex"`
}

// recoders decode a message of the named type and encode it again. EA and EH are the decode file's names for envelopes.
var recoders = map[string]func([]byte) ([]byte, error){
	"HostMessage":             recode(HostMessages),
	"GuestMessage":            recode(GuestMessages),
	"AgentRequest":            recode(AgentRequests),
	"AgentResponse":           recode(AgentResponses),
	"Envelope<HostMessage>":   recodeEnvelope(HostMessages),
	"Envelope<GuestMessage>":  recodeEnvelope(GuestMessages),
	"Envelope<AgentRequest>":  recodeEnvelope(AgentRequests),
	"Envelope<AgentResponse>": recodeEnvelope(AgentResponses),
	"EA":                      recodeEnvelope(AgentRequests),
	"EH":                      recodeEnvelope(HostMessages),
	"ImageInfo":               recodeImageInfo,
}

func recode[M any](c *Codec[M]) func([]byte) ([]byte, error) {
	return func(data []byte) ([]byte, error) {
		message, err := c.Decode(data)
		if err != nil {
			return nil, err
		}
		return c.Encode(message)
	}
}

func recodeEnvelope[M any](c *Codec[M]) func([]byte) ([]byte, error) {
	return func(data []byte) ([]byte, error) {
		envelope, err := c.DecodeEnvelope(data)
		if err != nil {
			return nil, err
		}
		return c.EncodeEnvelope(envelope)
	}
}

func recodeImageInfo(data []byte) ([]byte, error) {
	var info ImageInfo
	if err := compileStruct(reflect.TypeFor[ImageInfo]())(newDecoder(data), reflect.ValueOf(&info).Elem()); err != nil {
		return nil, err
	}
	return json.Marshal(info)
}

func TestMessageVectors(t *testing.T) {
	for _, file := range []string{"host_message", "guest_message", "agent_request", "agent_response", "envelope"} {
		for _, row := range readVectors[messageVector](t, "testdata/messages/"+file+".jsonl") {
			t.Run(file+"/"+row.Name, func(t *testing.T) {
				message, err := ReadMessage(bytes.NewReader(fromHex(t, row.FrameHex)))
				if err != nil || string(message) != row.JSON {
					t.Fatalf("ReadMessage = %s, %v", message, err)
				}
				again, err := recoders[row.Type](message)
				if row.Name == "ok_null" { // is read as no data; this is how null as data is written
					again, err = AgentResponses.Encode(OKResponse{Data: json.RawMessage("null")})
				}
				if err != nil {
					t.Fatal(err)
				}
				if string(again) != row.JSON {
					t.Errorf("encoded again: %s\n          want: %s", again, row.JSON)
				}
				var framed bytes.Buffer
				if err := WriteMessage(&framed, again); err != nil || hex.EncodeToString(framed.Bytes()) != row.FrameHex {
					t.Errorf("WriteMessage = %x, %v\n         want %s", framed.Bytes(), err, row.FrameHex)
				}
			})
		}
	}
}

func TestDecodeVectors(t *testing.T) {
	type vector struct {
		Name, Type, Reencoded string
		InputHex              string `json:"input_hex"`
		OK                    bool
	}
	for _, row := range readVectors[vector](t, "testdata/messages/decode.jsonl") {
		t.Run(row.Name, func(t *testing.T) {
			again, err := recoders[row.Type](fromHex(t, row.InputHex))
			if (err == nil) != row.OK {
				t.Fatalf("got %s, %v; want ok = %v", again, err, row.OK)
			}
			if string(again) != row.Reencoded {
				t.Errorf("encoded again: %s\n          want: %s", again, row.Reencoded)
			}
		})
	}
}

func TestLengthVectors(t *testing.T) {
	type vector struct {
		Name, Kind string
		InputHex   string `json:"input_hex"`
		OK         bool
	}
	for _, row := range readVectors[vector](t, "testdata/messages/framing.jsonl") {
		t.Run(row.Name, func(t *testing.T) {
			message, err := ReadMessage(bytes.NewReader(fromHex(t, row.InputHex)))
			kind := ""
			switch _, tooLarge := errors.AsType[*MessageTooLargeError](err); {
			case tooLarge:
				kind = "TooLarge"
			case err == io.EOF, errors.Is(err, ErrShortLength):
				kind = "TooShort"
			case errors.Is(err, ErrIncompleteMessage):
				kind = "Incomplete"
			case err != nil:
				t.Fatal(err)
			default:
				if _, err := AgentRequests.Decode(message); err != nil {
					kind = "Json"
				}
			}
			if kind != row.Kind || (kind == "") != row.OK {
				t.Errorf("got kind %q, want %q", kind, row.Kind)
			}
		})
	}
}

// vectorOpcodes is the opcode set that the frame vectors were made with. The header's rules are the same for every set.
var vectorOpcodes = opcodeLimits{Command: 7, Response: 7, Stream: 4, Notification: 1}

// readOne reads a single frame that ends with the input.
func readOne(input []byte, limits opcodeLimits) (Header, []byte, error) {
	r := newReader(bytes.NewReader(input), limits)
	header, err := r.ReadHeader()
	if err != nil {
		return Header{}, nil, err
	}
	payload, err := r.ReadPayload()
	return header, payload, err
}

func TestFrameVectors(t *testing.T) {
	type vector struct {
		Name, Dir, Type string
		FrameHex        string `json:"frame_hex"`
		InputHex        string `json:"input_hex"`
		PayloadHex      string `json:"payload_hex"`
		InError         bool   `json:"in_error"`
		Opcode          Opcode
		OK              bool
	}
	for _, row := range readVectors[vector](t, "testdata/frames.jsonl") {
		t.Run(row.Dir+"/"+row.Name, func(t *testing.T) {
			encode := row.Dir == "encode"
			input := fromHex(t, row.FrameHex+row.InputHex)
			header, payload, err := readOne(input, vectorOpcodes)
			if (err == nil) != (row.OK || encode) {
				t.Fatalf("got %+v, %v", header, err)
			}
			if err != nil {
				return
			}
			if header.Type.String() != row.Type || header.Opcode != row.Opcode || header.Error != row.InError ||
				hex.EncodeToString(payload) != row.PayloadHex {
				t.Fatalf("got %+v %x", header, payload)
			}
			if !encode {
				return
			}
			// The vectors have headers of three words, limpet writes five: two more, here zero.
			want := bytes.Clone(input[:minHeaderSize])
			want[2] = headerSize / wordSize
			want = append(want, make([]byte, headerSize-minHeaderSize)...)
			want = append(want, input[minHeaderSize:]...)
			var got bytes.Buffer
			if err := NewWriter(&got).Write(header, payload); err != nil || !bytes.Equal(got.Bytes(), want) {
				t.Errorf("Write = %x, %v\n want   %x", got.Bytes(), err, want)
			}
		})
	}
}

func TestStreamVectors(t *testing.T) {
	type vector struct{ Name, Hex string }
	rows := make(map[string][]byte)
	for _, row := range readVectors[vector](t, "testdata/streams.jsonl") {
		rows[row.Name] = fromHex(t, row.Hex)
	}
	preambles := map[string]StreamKind{
		"hello_proxy": StreamContainerd, "hello_proxy_with_h2_preface": StreamContainerd, "hello_output": StreamOutput,
	}
	for name, kind := range preambles {
		r := bytes.NewReader(rows[name])
		p, err := ReadPreamble(r)
		if err != nil || p != (Preamble{Kind: kind}) {
			t.Errorf("%s: %+v, %v", name, p, err)
		}
		if taken := len(rows[name]) - r.Len(); taken != len(magic)+1 {
			t.Errorf("%s: %d bytes were taken; what follows is not ours", name, taken)
		}
		var again bytes.Buffer
		if err := WritePreamble(&again, p); err != nil || !bytes.HasPrefix(rows[name], again.Bytes()) {
			t.Errorf("%s: written again: %x, %v", name, again.Bytes(), err)
		}
	}
	for _, name := range []string{"magic", "bad_magic_http", "bad_magic_short", "bad_magic_case", "bad_kind", "bad_kind_ff"} {
		if p, err := ReadPreamble(bytes.NewReader(rows[name])); err == nil {
			t.Errorf("%s: %+v", name, p)
		}
	}
	for _, name := range []string{"output_reply_seed_u8", "output_reply_example_19", "output_reply_255"} {
		path, err := ReadOutputPath(bytes.NewReader(rows[name]))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		var again bytes.Buffer
		if err := WriteOutputPath(&again, path); err != nil || !bytes.Equal(again.Bytes(), rows[name]) {
			t.Errorf("%s: written again: %x, %v", name, again.Bytes(), err)
		}
	}
}
