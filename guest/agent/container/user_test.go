package container

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestResolveUser(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"etc/accounts": "# none\nroot:x:0:0:root:/root:/bin/sh\nweb:x:33:33::/srv:/bin/false\nbroken:x:y:z\n\n",
		"etc/group":    "root:x:0:\nweb:x:33:\nlogs:x:4:web,root\nadm:x:5:other,web\nnone:x::web\n",
	} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// A link is followed inside the root.
	if err := os.Symlink("/etc/accounts", filepath.Join(root, "etc/passwd")); err != nil {
		t.Fatal(err)
	}
	umask := uint32(0o27)
	for _, test := range []struct {
		name string
		want specs.User
		err  string
	}{
		{name: "root", want: specs.User{AdditionalGids: []uint32{4}}},
		{name: "web", want: specs.User{UID: 33, GID: 33, AdditionalGids: []uint32{4, 5}}},
		{name: "33", want: specs.User{UID: 33, GID: 33, AdditionalGids: []uint32{4, 5}}},
		{name: "web:logs", want: specs.User{UID: 33, GID: 4}},
		{name: "web:7", want: specs.User{UID: 33, GID: 7}},
		{name: "1000", want: specs.User{UID: 1000}},
		{name: "1000:1001", want: specs.User{UID: 1000, GID: 1001}},
		{name: "nobody", err: "/etc/passwd"},
		{name: "broken", err: "/etc/passwd"},
		{name: "web:nobody", err: `"nobody"`},
		{name: "web:", err: `""`},
		{name: "4294967295", err: "/etc/passwd"},
	} {
		user := specs.User{Username: test.name, Umask: &umask}
		err := resolveUser(root, &user)
		if test.err != "" {
			if err == nil || !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), test.err) {
				t.Errorf("%s: got %v", test.name, err)
			}
			continue
		}
		test.want.Umask = &umask
		if err != nil || !reflect.DeepEqual(user, test.want) {
			t.Errorf("%s: got %+v, %v", test.name, user, err)
		}
	}

	user := specs.User{UID: 5}
	if err := resolveUser("/nowhere", &user); err != nil || user.UID != 5 {
		t.Errorf("without a name: %+v, %v", user, err)
	}
	user.Username = "7"
	if err := resolveUser(t.TempDir(), &user); err != nil || user.UID != 7 {
		t.Errorf("without files: %+v, %v", user, err)
	}
}
