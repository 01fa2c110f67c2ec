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

// TestSidecarPod has a container of a pod run programs in another one, over a volume that they share. The program is bind-mounted.
func TestSidecarPod(t *testing.T) {
	eachMode(t, func(s *podScope) {
		dir := s.TempDir()
		shared, tool := filepath.Join(dir, "volumes/kubernetes.io~empty-dir/shared"), filepath.Join(dir, "tool")
		s.mount("tmpfs", shared, "tmpfs", 0, "size=2m,mode=0777")
		s.must(os.WriteFile(tool, []byte(toolScript), 0o755))
		real := filepath.Join(dir, "real")
		s.must(os.WriteFile(real, []byte("#!/bin/sh\necho \"$WHERE $PWD $1\"\n"), 0o755))
		program := volume(daemon.Build.Path("bin/limpet"), "/usr/local/bin/limpet", true)
		p := s.run(s.podConfig())
		config := harness.ContainerConfig("server", "/usr/local/bin/limpet", "sidecar", "start", "/shared/socket")
		config.Mounts = []*cri.Mount{volume(shared, "/shared", false), program, volume(real, "/usr/local/bin/whereami", true)}
		config.Envs = []*cri.KeyValue{{Key: "WHERE", Value: []byte("server")}}
		server := p.start(config)
		config = harness.ContainerConfig("client", "sleep", "1000000")
		config.Mounts = []*cri.Mount{volume(shared, "/shared", false), program, volume(tool, "/usr/local/bin/whereami", true)}
		client := p.start(config)
		p.wantExec("", client, "sh", "-c", "until [ -S /shared/socket ]; do sleep 0.05; done")
		p.wantExec("server /shared now", client, "sh", "-c", "cd /shared; whereami now")
		p.wantExec("/shared", client, "sh", "-c", "cd /shared; limpet sidecar exec -c socket -w /shared -- pwd")
		p.wantExec("in\n7", client, "sh", "-c", "echo in | limpet sidecar exec -c /shared/socket -- sh -c 'cat; exit 7'; echo $?")
		p.wantExec("", client, "limpet", "sidecar", "stop", "/shared/socket")
		if code := p.exited(server); code != 0 {
			s.Errorf("the server exited with %d", code)
		}
	})
}
