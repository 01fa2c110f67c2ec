// Package deploy holds the manifests by which a Kubernetes cluster runs pods in limpet.
package deploy

import _ "embed"

// RuntimeClass is the manifest of the class that pods name (runtimeClassName).
//
//go:embed runtimeclass.yaml
var RuntimeClass string
