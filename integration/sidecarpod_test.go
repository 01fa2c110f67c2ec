package integration

import (
	"os"
	"path/filepath"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/limpet-run/limpet/integration/harness"
)

// toolScript stands for a program that is in another container only: the exec sidecar's server there runs what the script is called, in
// the same directory.
const toolScript = `#!/bin/sh
exec /usr/local/bin/limpet sidecar exec --connect /shared/socket --workdir "$(pwd)" -- "$(basename "$0")" "$@"
`

// TestSidecarPod has a container of a pod run programs in another one, over volumes that they share: a directory of the host
// and one in memory. The program is bind-mounted.
func TestSidecarPod(t *testing.T) {
	eachMode(t, func(s *podScope) {
		dir := s.TempDir()
		volumes := filepath.Join(dir, "volumes/kubernetes.io~empty-dir")
		shared, memory, tool := filepath.Join(volumes, "shared"), filepath.Join(volumes, "memory"), filepath.Join(dir, "tool")
		s.must(os.MkdirAll(shared, 0o777))
		s.mount("tmpfs", memory, "tmpfs", 0, "size=2m,mode=0777")
		shares := []*cri.Mount{volume(shared, "/shared", false), volume(memory, "/memory", false)}
		s.must(os.WriteFile(tool, []byte(toolScript), 0o755))
		real := filepath.Join(dir, "real")
		s.must(os.WriteFile(real, []byte("#!/bin/sh\necho \"$WHERE $PWD $1\"\n"), 0o755))
		program := volume(daemon.Build.Path("bin/limpet"), "/usr/local/bin/limpet", true)
		p := s.run(s.podConfig())
		config := harness.ContainerConfig("server", "sh", "-c",
			"limpet sidecar start /memory/socket & exec limpet sidecar start /shared/socket")
		config.Mounts = append(shares, program, volume(real, "/usr/local/bin/whereami", true))
		config.Envs = []*cri.KeyValue{{Key: "WHERE", Value: []byte("server")}}
		server := p.start(config)
		config = harness.ContainerConfig("client", "sleep", "1000000")
		config.Mounts = append(shares, program, volume(tool, "/usr/local/bin/whereami", true))
		client := p.start(config)
		p.wantExec("", client, "sh", "-c", "until [ -S /shared/socket ] && [ -S /memory/socket ]; do sleep 0.05; done")
		p.wantExec("server /shared now", client, "sh", "-c", "cd /shared; whereami now")
		p.wantExec("server", client, "sh", "-c", "limpet sidecar exec -c /memory/socket -- sh -c 'echo $WHERE'")
		p.wantExec("/shared", client, "sh", "-c", "cd /shared; limpet sidecar exec -c socket -w /shared -- pwd")
		p.wantExec("in\n7", client, "sh", "-c", "echo in | limpet sidecar exec -c /shared/socket -- sh -c 'cat; exit 7'; echo $?")
		p.wantExec("", client, "limpet", "sidecar", "stop", "/shared/socket")
		if code := p.exited(server); code != 0 {
			s.Errorf("the server exited with %d", code)
		}
	})
}
