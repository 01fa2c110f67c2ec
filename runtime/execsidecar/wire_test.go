package execsidecar

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// vector is one datagram as the tool of the protocol's origin sends it.
type vector struct {
	Name, Type, Hex string
}

// readVectors reads them; a test that ran none would prove nothing.
func readVectors(t testing.TB) []vector {
	t.Helper()
	file, err := os.Open("testdata/bincode.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var vectors []vector
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		var v vector
		if err := json.Unmarshal(lines.Bytes(), &v); err != nil {
			t.Fatal(err)
		}
		vectors = append(vectors, v)
	}
	if err := lines.Err(); err != nil || len(vectors) == 0 {
		t.Fatalf("%d vectors: %v", len(vectors), err)
	}
	return vectors
}

func fromHex(t testing.TB, text string) []byte {
	t.Helper()
	data, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// recoders decode a datagram and encode it again.
var recoders = map[string]func([]byte) (any, []byte, error){
	"RequestInput": func(data []byte) (any, []byte, error) {
		r, err := decodeRequest(data)
		return r, r.encode(), err
	},
	"ExecRequestInput": func(data []byte) (any, []byte, error) {
		c, err := decodeCommand(data)
		if err != nil {
			return nil, nil, err
		}
		encoded, err := c.encode()
		return c, encoded, err
	},
	"StartedProcess": func(data []byte) (any, []byte, error) {
		s, err := decodeStarted(data)
		return s, s.encode(), err
	},
	"Signal": func(data []byte) (any, []byte, error) {
		signal, err := decodeSignal(data)
		return signal, encodeSignal(signal), err
	},
	"ProcessResult": func(data []byte) (any, []byte, error) {
		r, err := decodeResult(data)
		return r, r.encode(), err
	},
}

// TestVectors has every vector decoded to what it means, and encoded to the same bytes; and refused if it is shorter or longer.
func TestVectors(t *testing.T) {
	full := Command{
		Program: "sh", Args: []string{"-c", "exit 3"}, Dir: "/var/shared", Env: []Variable{{"A", "1"}, {"B", "x y"}},
		Startup: JoinGroup | NewSession | DetachTerminal, Streams: Stdin | Stdout | Stderr,
		UID: 1000, GID: 1000, DeathSignal: 15, HangUpSignal: 9,
	}
	least := NewCommand("ls")
	least.Streams = Stdin | Stdout | Stderr
	stdout := NewCommand("date")
	stdout.Startup, stdout.Streams, stdout.HangUpSignal = NewSession, Stdout, 15
	meanings := map[string]any{
		"request_stop":                 request{stop: true},
		"request_exec_header_for_min":  request{size: 62},
		"request_exec_header_for_full": request{size: 135},
		"exec_min":                     least,
		"exec_full":                    full,
		"exec_stdout_only":             stdout,
		"started_ok":                   Started{OK: true, PID: 4321},
		"started_enoent":               Started{Message: "No such file or directory (os error 2)", Errno: unix.ENOENT, PID: -1},
		"signal_1":                     int32(1),
		"signal_2":                     int32(2),
		"signal_3":                     int32(3),
		"signal_15":                    int32(15),
		"signal_28":                    int32(28),
		"signal_group_20":              int32(-20),
		"signal_group_18":              int32(-18),
		"signal_group_21":              int32(-21),
		"signal_group_22":              int32(-22),
		"result_undefined":             Result{},
		"result_exit_0":                Result{ResultExited, 0},
		"result_exit_3":                Result{ResultExited, 3},
		"result_signal_9":              Result{ResultSignaled, 9},
	}
	for _, v := range readVectors(t) {
		t.Run(v.Name, func(t *testing.T) {
			data, recode := fromHex(t, v.Hex), recoders[v.Type]
			meaning, encoded, err := recode(data)
			if err != nil || !reflect.DeepEqual(meaning, meanings[v.Name]) {
				t.Errorf("means %+v, %v; want %+v", meaning, err, meanings[v.Name])
			}
			if !bytes.Equal(encoded, data) {
				t.Errorf("encoded %x, want %x", encoded, data)
			}
			for _, wrong := range [][]byte{data[:len(data)-1], append(bytes.Clone(data), 0)} {
				if _, _, err := recode(wrong); !errors.Is(err, errMalformed) {
					t.Errorf("%x: %v", wrong, err)
				}
			}
		})
	}
}

// TestMalformed has datagrams that are refused for what is in them.
func TestMalformed(t *testing.T) {
	change := func(change func(*Command)) []byte {
		command := NewCommand("true")
		change(&command)
		// encode would refuse it.
		data, _ := command.encode()
		return data
	}
	for _, test := range []struct {
		name, kind string
		data       []byte
		want       string
	}{
		{"empty", "RequestInput", nil, "0 are left"},
		{"unknown request", "RequestInput", []byte{2, 0, 0, 0}, "request 2"},
		{"large command", "RequestInput", request{size: maxCommand + 1}.encode(), "at most"},
		{"huge command", "RequestInput", request{size: 1 << 63}.encode(), "at most"},
		{"no program", "ExecRequestInput", change(func(c *Command) { c.Program = "" }), "without a program"},
		{"huge text", "ExecRequestInput", bytes.Repeat([]byte{0xff}, 64), "are left"},
		{"huge list", "ExecRequestInput", append(appendText(nil, "true"), bytes.Repeat([]byte{0xff}, 64)...), "elements"},
		{"zero byte", "ExecRequestInput", change(func(c *Command) { c.Args = []string{"a\x00b"} }), "zero byte"},
		{"not UTF-8", "ExecRequestInput", change(func(c *Command) { c.Dir = "\xff" }), "UTF-8"},
		{"nameless variable", "ExecRequestInput", change(func(c *Command) { c.Env = []Variable{{"", "x"}} }), "name"},
		{"variable with two values", "ExecRequestInput", change(func(c *Command) { c.Env = []Variable{{"a=b", "c"}} }), "name"},
		{"unknown startup", "ExecRequestInput", change(func(c *Command) { c.Startup = 16 }), "startup 0x10"},
		{"unknown stream", "ExecRequestInput", change(func(c *Command) { c.Streams = 8 }), "streams 0x8"},
		{"neither true nor false", "StartedProcess", append([]byte{2}, Started{}.encode()[1:]...), "truth"},
		{"unknown result", "ProcessResult", []byte{3, 0, 0, 0}, "result 3"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if _, _, err := recoders[test.kind](test.data); !errors.Is(err, errMalformed) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%x: %v", test.data, err)
			}
		})
	}
}

func TestExitCode(t *testing.T) {
	for _, test := range []struct {
		result Result
		err    error
		want   int
	}{
		{Result{ResultExited, 0}, nil, 0},
		{Result{ResultExited, 3}, nil, 3},
		{Result{ResultSignaled, 9}, nil, 137},
		{Result{}, nil, 127},
		{Result{}, &StartError{Errno: unix.ENOENT}, 127},
		{Result{}, &StartError{Errno: unix.EACCES}, 126},
		{Result{}, errLost, 125},
	} {
		if got := ExitCode(test.result, test.err); got != test.want {
			t.Errorf("%+v, %v: %d, want %d", test.result, test.err, got, test.want)
		}
	}
}

func FuzzDatagram(f *testing.F) {
	for _, v := range readVectors(f) {
		f.Add(v.Type, fromHex(f, v.Hex))
	}
	f.Fuzz(func(t *testing.T, kind string, data []byte) {
		recode := recoders[kind]
		if recode == nil {
			return
		}
		// A text in a list is 8 bytes of input and 16 of memory, several times over where the list grows.
		const fixed, perByte = 1 << 20, 64
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, encoded, err := recode(data)
		runtime.ReadMemStats(&after)
		if cost := after.TotalAlloc - before.TotalAlloc; cost > fixed+perByte*uint64(len(data)) {
			t.Errorf("%d bytes allocated for %d", cost, len(data))
		}
		if err == nil && !bytes.Equal(encoded, data) {
			t.Errorf("%x is encoded again as %x", data, encoded)
		}
	})
}
