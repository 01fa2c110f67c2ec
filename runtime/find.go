package runtime

import (
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
)

// Found is what a reference means.
type Found struct {
	SandboxInfo
	// Container is the container that is meant: the one named, or else the one that is called as the sandbox, or else the only one. Nil: there
	// is none of these.
	Container *ContainerInfo
}

// FindSandbox returns what a reference means among the sandboxes of a state directory, see Find.
func FindSandbox(stateDir, namespace, reference string) (Found, error) {
	sandboxes, err := Sandboxes(stateDir)
	found, findErr := Find(sandboxes, namespace, reference)
	switch {
	case findErr == nil: // those that cannot be read are not meant
		return found, nil
	case err != nil:
		return Found{}, fmt.Errorf("%w in %s (%w)", findErr, stateDir, err)
	}
	return Found{}, fmt.Errorf("%w in %s", findErr, stateDir)
}

// Find returns what a reference means: SANDBOX, CONTAINER or SANDBOX/CONTAINER, each an identifier or the beginning of one, or after the
// slash a container's name in its pod. A whole identifier counts more than the beginning of another, and a sandbox more than a container
// of the same identifier. An empty namespace stands for any. errdefs.ErrNotFound: there is none; errdefs.ErrInvalidArgument: there are
// several.
func Find(sandboxes []SandboxInfo, namespace, reference string) (Found, error) {
	var inNamespace []SandboxInfo
	for _, sandbox := range sandboxes {
		if namespace == "" || sandbox.Namespace == namespace {
			inNamespace = append(inNamespace, sandbox)
		}
	}
	first, second, both := strings.Cut(reference, "/")
	if !both {
		return pick(reference, candidates(inNamespace))
	}
	found, err := pick(first, sandboxCandidates(inNamespace))
	if err != nil {
		return Found{}, err
	}
	return pick(second, containerCandidates(found.SandboxInfo))
}

// candidate is something that can be meant, by its identifier or its name.
type candidate struct {
	id, name string
	what     string // for people
	Found
}

// candidates are sandboxes and containers. A container that is called as its sandbox is not one beside it.
func candidates(sandboxes []SandboxInfo) []candidate {
	list := sandboxCandidates(sandboxes)
	for _, sandbox := range sandboxes {
		for _, container := range containerCandidates(sandbox) {
			if container.id != sandbox.ID {
				container.name = "" // many pods have one of that name
				list = append(list, container)
			}
		}
	}
	return list
}

func sandboxCandidates(sandboxes []SandboxInfo) []candidate {
	var list []candidate
	for _, sandbox := range sandboxes {
		found := Found{SandboxInfo: sandbox}
		for i := range sandbox.Containers {
			if container := &sandbox.Containers[i]; container.ID == sandbox.ID || len(sandbox.Containers) == 1 {
				found.Container = container
			}
		}
		what := fmt.Sprintf("sandbox %s of namespace %s", sandbox.ID, sandbox.Namespace)
		list = append(list, candidate{sandbox.ID, "", what, found})
	}
	return list
}

func containerCandidates(sandbox SandboxInfo) []candidate {
	var list []candidate
	for i := range sandbox.Containers {
		container := &sandbox.Containers[i]
		what := fmt.Sprintf("container %s/%s of namespace %s", sandbox.ID, container.ID, sandbox.Namespace)
		list = append(list, candidate{container.ID, container.Name, what, Found{sandbox, container}})
	}
	return list
}

// pick returns the candidate that is meant.
func pick(reference string, list []candidate) (Found, error) {
	for _, means := range []func(candidate) bool{
		func(c candidate) bool { return c.id == reference },
		func(c candidate) bool { return c.name == reference },
		func(c candidate) bool { return strings.HasPrefix(c.id, reference) },
	} {
		var meant []candidate
		var names []string
		for _, candidate := range list {
			if reference != "" && means(candidate) {
				meant = append(meant, candidate)
				names = append(names, candidate.what)
			}
		}
		switch len(meant) {
		case 0:
		case 1:
			return meant[0].Found, nil
		default:
			return Found{}, fmt.Errorf("%q can mean %s: %w", reference, strings.Join(names, " or "), errdefs.ErrInvalidArgument)
		}
	}
	return Found{}, fmt.Errorf("no sandbox or container %q: %w", reference, errdefs.ErrNotFound)
}
