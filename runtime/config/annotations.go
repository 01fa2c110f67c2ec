package config

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

const (
	// AnnotationVCPUs replaces vm.vcpus.
	AnnotationVCPUs = "io.limpet.vcpus"
	// AnnotationMemory replaces vm.memory_mib; its value is in MiB.
	AnnotationMemory = "io.limpet.memory"
	// AnnotationEgressHosts replaces egress.hosts, with commas between them, and restricts egress.
	AnnotationEgressHosts = "io.limpet.egress.hosts"
	// AnnotationEgressCIDRs replaces egress.cidrs, with commas between them, and restricts egress.
	AnnotationEgressCIDRs = "io.limpet.egress.cidrs"

	annotationPrefix = "io.limpet."
)

// WithAnnotations returns the configuration with what a container's annotations change. Annotations that are not limpet's are
// left alone; limpet's must be known and allowed (ErrInvalidArgument).
func (c Config) WithAnnotations(annotations map[string]string) (Config, error) {
	for _, name := range slices.Sorted(maps.Keys(annotations)) {
		if !strings.HasPrefix(name, annotationPrefix) {
			continue
		}
		if err := c.annotate(name, annotations[name]); err != nil {
			return Config{}, fmt.Errorf("annotation %s=%q: %w: %w", name, annotations[name], err, errdefs.ErrInvalidArgument)
		}
	}
	return c, nil
}

// annotations are those that there are.
var annotations = []string{AnnotationVCPUs, AnnotationMemory, AnnotationEgressHosts, AnnotationEgressCIDRs}

func (c *Config) annotate(name, value string) (err error) {
	if !slices.Contains(annotations, name) {
		return fmt.Errorf("not known: limpet has %s", strings.Join(annotations, ", "))
	}
	if !slices.Contains(c.AllowedAnnotations, name) {
		return fmt.Errorf("not allowed: the host's allowed_annotations does not list it")
	}
	switch name {
	case AnnotationVCPUs:
		c.VM.VCPUs, err = number(value)
	case AnnotationMemory:
		c.VM.MemoryMiB, err = number(value)
	case AnnotationEgressHosts:
		c.Egress.Restrict, c.Egress.Hosts = true, list(value)
	case AnnotationEgressCIDRs:
		c.Egress.Restrict, c.Egress.CIDRs = true, list(value)
	}
	if err != nil {
		return err
	}
	return c.validate()
}

func number(value string) (int, error) {
	number, err := strconv.Atoi(value)
	if err != nil {
		return 0, fmt.Errorf("not a whole number")
	}
	return number, nil
}

// list splits at commas; there may be spaces around them.
func list(value string) []string {
	parts := []string{}
	for part := range strings.SplitSeq(value, ",") {
		if part = strings.TrimSpace(part); part != "" {
			parts = append(parts, part)
		}
	}
	return parts
}
