// Package install puts limpet on a host: its programs and the guest, and the handlers by which Kubernetes' pods find it in
// containerd's configuration.
//
// What is to be done is planned first, from what is there (planFiles, planContainerd, planUninstall), and then done by Apply, which takes
// back everything if a step fails. A second run finds nothing to do.
package install
