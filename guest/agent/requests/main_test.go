package requests

import (
	"os"
	"testing"

	"github.com/limpet-run/limpet/guest/agent/agenttest"
)

func TestMain(m *testing.M) {
	if os.Getenv(imageProgram) != "" {
		actAsImageProgram()
	}
	agenttest.Main(m)
}
