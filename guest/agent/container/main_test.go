package container

import (
	"testing"

	"github.com/limpet-run/limpet/guest/agent/agenttest"
	"github.com/limpet-run/limpet/guest/agent/pod"
)

func TestMain(m *testing.M) {
	pod.MainIfAsked()
	agenttest.Main(m)
}
