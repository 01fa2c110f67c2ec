package standalone

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

func sortedKeys(files map[string]string) []string { return slices.Sorted(maps.Keys(files)) }

// hosts is a container's /etc/hosts.
func hosts(hostname string) string {
	return "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\t" + hostname + "\n"
}

// writeFiles writes the files of its own that a run's container gets, below dir, and returns them by their paths in the container.
// resolvConf is the host's that it is to have; empty: none.
func writeFiles(dir string, request Request, resolvConf string) (map[string]string, error) {
	hostname := firstOf(request.Hostname, request.Name)
	texts := map[string]string{"hostname": hostname + "\n", "hosts": hosts(hostname)}
	if request.Network {
		texts["resolv.conf"] = ""
		if resolvConf != "" {
			text, err := os.ReadFile(resolvConf)
			if err != nil {
				return nil, fmt.Errorf("look for name servers: %w", err)
			}
			texts["resolv.conf"] = string(text)
		}
	}
	files := map[string]string{}
	for name, text := range texts {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return nil, fmt.Errorf("write the container's /etc/%s: %w", name, err)
		}
		files["/etc/"+name] = path
	}
	return files, nil
}
