package images

// Limits of what an image may be. They are far above images that people use, and low enough that what is held in memory of one fits into a
// small guest.
const (
	// maxLayers is how many layers Docker makes at most, and fewer than one mount of overlayfs takes by short names.
	maxLayers = 127
	// maxDocument is the size in bytes of a manifest or configuration: what registries accept of one (OCI distribution specification).
	maxDocument = 4 << 20
	// maxEntries is how many files a layer may have.
	maxEntries = 1 << 19
	// maxNames is how many bytes the names, link targets and attributes of a layer's files may come to.
	maxNames = 128 << 20
	// maxLayerSize is how many bytes the files of a layer may come to.
	maxLayerSize = 64 << 30
	// maxTrailer is how many bytes may follow the end of a layer's archive: tar pads to 10 KiB, some writers to more.
	maxTrailer = 1 << 20
	// maxReference is how many bytes a reference may have: a name has 255 at most, a tag 128, a digest 135.
	maxReference = 1 << 10
	// maxImages is how many images a store may have.
	maxImages = 1024
)
