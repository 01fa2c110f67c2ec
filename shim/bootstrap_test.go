package shim

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	bootstrap "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

func encode(t *testing.T, message proto.Message) []byte {
	t.Helper()
	data, err := proto.Marshal(message)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestParseBootstrapInput(t *testing.T) {
	options, err := marshalAny(&runtimeoptions.Options{ConfigPath: "/c.toml"})
	if err != nil {
		t.Fatal(err)
	}
	directory := "/run/x"
	params := func(id, namespace string) []byte {
		return encode(t, &bootstrap.BootstrapParams{
			InstanceID: id,
			Namespace:  namespace,
			SocketDir:  &directory,
			Extensions: []*bootstrap.Extension{{Value: &anypb.Any{TypeUrl: "other.Thing"}}, {Value: options}},
		})
	}
	for name, test := range map[string]struct {
		data        []byte
		socketDir   string
		optionsType string
		fails       bool
	}{
		"nothing":                    {},
		"options of the old days":    {data: encode(t, options), optionsType: "runtimeoptions.v1.Options"},
		"parameters":                 {data: params("c1", "ns"), socketDir: directory, optionsType: "runtimeoptions.v1.Options"},
		"parameters without options": {data: encode(t, &bootstrap.BootstrapParams{InstanceID: "c1", Namespace: "ns"})},
		"parameters of another":      {data: params("c2", "ns"), optionsType: "c2"}, // taken for options, which are refused by their type
		"not protobuf":               {data: []byte{0xff}, fails: true},
	} {
		t.Run(name, func(t *testing.T) {
			input, err := parseBootstrapInput(test.data, "ns", "c1")
			if test.fails != (err != nil) {
				t.Fatalf("error %v", err)
			}
			if input.socketDir != test.socketDir || input.options.GetTypeUrl() != test.optionsType {
				t.Errorf("got %+v", input)
			}
		})
	}
}

func TestBootstrapAnswerIsNoProtobuf(t *testing.T) {
	for _, address := range []string{
		"unix:///s", "unix:///run/containerd/s/" + strings.Repeat("0", 64), "unix:///" + strings.Repeat("x", 300),
	} {
		var out bytes.Buffer
		if err := writeBootstrapAnswer(&out, address); err != nil {
			t.Fatal(err)
		}
		if proto.Unmarshal(out.Bytes(), &bootstrap.BootstrapResult{}) == nil {
			t.Errorf("%s decodes as protobuf", &out)
		}
		var answer bootstrap.BootstrapResult
		if err := json.Unmarshal(out.Bytes(), &answer); err != nil || answer.Address != address || answer.Version != 3 ||
			answer.Protocol != "ttrpc" {
			t.Errorf("%s: %v", &out, err)
		}
	}
}

func TestDecodeOptions(t *testing.T) {
	marshal := func(message proto.Message) *anypb.Any {
		options, err := marshalAny(message)
		if err != nil {
			t.Fatal(err)
		}
		return options
	}
	for name, test := range map[string]struct {
		options *anypb.Any
		want    RuntimeOptions
		fails   bool
	}{
		"none":       {},
		"empty":      {options: &anypb.Any{}},
		"CRI's":      {options: marshal(&runtimeoptions.Options{ConfigPath: "/c"}), want: RuntimeOptions{ConfigPath: "/c"}},
		"runc's":     {options: marshal(&runcoptions.Options{BinaryName: "crun", ShimCgroup: "/s"}), want: RuntimeOptions{ShimCgroup: "/s"}},
		"new field":  {options: &anypb.Any{TypeUrl: "runtimeoptions.v1.Options", Value: []byte{0xfa, 0x7f, 1, 'x'}}},
		"with host":  {options: &anypb.Any{TypeUrl: "type.googleapis.com/runtimeoptions.v1.Options"}},
		"unknown":    {options: &anypb.Any{TypeUrl: "some.Options"}, fails: true},
		"not theirs": {options: &anypb.Any{TypeUrl: "runtimeoptions.v1.Options", Value: []byte{0xff}}, fails: true},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := decodeOptions(test.options)
			if test.fails {
				if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "ptions") {
					t.Errorf("error %v", err)
				}
				return
			}
			if err != nil || got.ConfigPath != test.want.ConfigPath || got.ShimCgroup != test.want.ShimCgroup {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
}

func TestParseCommand(t *testing.T) {
	environment := func(name string) string { return "value of " + name }
	full := strings.Fields("-namespace ns -address /a.sock -publish-binary /bin/containerd -id c1 -bundle /b -debug")
	for name, test := range map[string]struct {
		arguments []string
		want      command
		fails     string
	}{
		"start": {append(full, "start"), command{verb: "start", namespace: "ns", id: "c1", bundle: "/b", address: "/a.sock", debug: true,
			ttrpcAddress: "value of TTRPC_ADDRESS"}, ""},
		"in the bundle": {strings.Fields("-namespace ns -id c1 delete"), command{verb: "delete", namespace: "ns", id: "c1", bundle: "/cwd",
			ttrpcAddress: "value of TTRPC_ADDRESS"}, ""},
		"serve": {[]string{"-namespace", "ns", "-id", "c1", "-stages", `[{"name":"start","ended":"2026-11-21T10:00:00.5Z"}]`, "serve"},
			command{verb: "serve", namespace: "ns", id: "c1", bundle: "/cwd", ttrpcAddress: "value of TTRPC_ADDRESS",
				stages: stages{{Name: "start", Ended: time.Date(2026, 11, 21, 10, 0, 0, 5e8, time.UTC)}}}, ""},
		"info":         {[]string{"-info"}, command{info: true, bundle: "/cwd"}, ""},
		"version":      {[]string{"-version"}, command{version: true, bundle: "/cwd"}, ""},
		"no verb":      {full, command{}, "verb"},
		"no id":        {[]string{"-namespace", "ns", "start"}, command{}, "-id"},
		"no namespace": {[]string{"-id", "c1", "start"}, command{}, "-namespace"},
		"bad flag":     {[]string{"-frob"}, command{}, "frob"},
		"bad stages":   {[]string{"-stages", "{}", "serve"}, command{}, "stages"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseCommand(test.arguments, environment, "/cwd")
			if test.fails != "" {
				if err == nil || !strings.Contains(err.Error(), test.fails) {
					t.Errorf("error %v", err)
				}
				return
			}
			if err != nil || !reflect.DeepEqual(got, test.want) {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
}
