package defaultspec

import (
	"reflect"
	"testing"
)

// TestOwned has who changes what he got change it for himself only.
func TestOwned(t *testing.T) {
	capabilities, mounts, masked := Capabilities(), Mounts(), MaskedPaths()
	capabilities.Bounding[0], mounts[0].Options[0], masked[0] = "CAP_SYS_ADMIN", "exec", "/"
	if again := Capabilities(); reflect.DeepEqual(again, capabilities) || capabilities.Effective[0] != again.Effective[0] {
		t.Errorf("capabilities: %+v", again)
	}
	if again := Mounts(); reflect.DeepEqual(again, mounts) {
		t.Errorf("mounts: %+v", again)
	}
	if again := MaskedPaths(); reflect.DeepEqual(again, masked) {
		t.Errorf("masked paths: %q", again)
	}
}
