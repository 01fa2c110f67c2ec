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

func (c *Config) annotate(name, value string) error {
	var target *int
	switch name {
	case AnnotationVCPUs:
		target = &c.VM.VCPUs
	case AnnotationMemory:
		target = &c.VM.MemoryMiB
	default:
		return fmt.Errorf("not known: limpet has %s and %s", AnnotationVCPUs, AnnotationMemory)
	}
	if !slices.Contains(c.AllowedAnnotations, name) {
		return fmt.Errorf("not allowed: the host's allowed_annotations does not list it")
	}
	number, err := strconv.Atoi(value)
	if err != nil {
		return fmt.Errorf("not a whole number")
	}
	*target = number
	return c.validate()
}
