// Package images keeps container images in the guest: it pulls them, unpacks each layer once, and puts writable root file systems on
// top. It serves the machine requests about images, one per process of limpet-images: the agent, which starts the program, is small for it.
//
// # The store
//
//	images/<hash of the reference>.json   an image: what it is, and its layers' chain ids
//	layers/<chain id>                     an unpacked layer, in the form of overlayfs's lower directories
//	overlays/<workload>/                  overlay.json, rootfs (where it is mounted), upper, work
//	staging/<random>                      what is being made; it is moved to one of the others when it is whole
//
// A chain id names a layer together with those below it (OCI image specification, "Layer ChainID"): a directory that a layer only mentions
// has the owner and mode that it has in the layers below.
//
// # A pull
//
//	reference ──▶ manifest ──▶ for each layer, from the lowest:                          ──▶ images/<hash>.json
//	                            there already ──▶ held
//	                            else: blob ─▶ digest ─▶ decompress ─▶ diff id ─▶ staging ─▶ layers/<chain id>, held
//
// So an image is there when all its layers are, and never before. A pull that fails or is cancelled leaves the layers that are whole: the
// next one goes on from there. What is in staging belongs to the process that holds its lock (flock); when nobody does, whoever opens
// the store next removes it. A layer is held by a shared lock while a process counts on it, and removed only under an exclusive one.
//
// # What a layer may do
//
// Names with ".." are refused, and hard links to anything outside. Where a layer goes through symbolic links of its own, they are
// followed as if the layer were the whole file system. Device nodes are made as the layer says, as every runtime does: a container may
// open those only that its device rules list. Attributes named trusted.* are not taken over: they would be overlayfs's. Sizes, names and
// the number of files are bounded; a file that cannot fit is refused before it is written.
package images
