package images

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// TestOverlay prepares, writes to, finds again and cleans up an overlay.
func TestOverlay(t *testing.T) {
	s := newTestStore(t, 16<<20)
	host := testRegistry(t, nil)
	one := push(t, host, "one", imageOf(t, archiveOf(t, regular("a", "1"))))
	two := push(t, host, "two", imageOf(t, archiveOf(t, regular("a", "2"))))
	for _, image := range []string{one, two} {
		if _, _, err := s.pullForTest(t, image); err != nil {
			t.Fatal(err)
		}
	}
	root := mustPrepare(t, s, one, "w")
	if err := os.WriteFile(filepath.Join(root, "b"), []byte("written"), 0o600); err != nil {
		t.Fatal(err)
	}
	if again := mustPrepare(t, s, one, "w"); again != root || look(again, "b") != "written" {
		t.Errorf("prepared again it is %s, b is %s", again, look(again, "b"))
	}
	if err := unix.Unmount(root, 0); err != nil { // as after a restart of the machine
		t.Fatal(err)
	}
	if again := mustPrepare(t, s, one, "w"); look(again, "a") != "1" || look(again, "b") != "written" {
		t.Errorf("mounted again: a is %s, b is %s", look(again, "a"), look(again, "b"))
	}
	if _, err := s.PrepareOverlay(two, "w"); !errdefs.IsAlreadyExists(err) {
		t.Errorf("of another image: %v", err)
	}
	busy, err := os.Open(filepath.Join(root, "b"))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.CleanupOverlay("w"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("while it is used: %v", err)
	}
	busy.Close()
	if err := s.CleanupOverlay("w"); err != nil {
		t.Error(err)
	}
	if err := s.CleanupOverlay("w"); !errdefs.IsNotFound(err) {
		t.Errorf("cleaned up twice: %v", err)
	}
	for _, dir := range []string{overlaysDir, stagingDir} {
		if left, err := os.ReadDir(filepath.Join(s.Root, dir)); err != nil || len(left) > 0 {
			t.Errorf("%s: %v, %v", dir, left, err)
		}
	}
	if again := mustPrepare(t, s, two, "w"); look(again, "a") != "2" || look(again, "b") != "none" {
		t.Errorf("anew: a is %s, b is %s", look(again, "a"), look(again, "b"))
	}
	for workload, is := range map[string]func(error) bool{
		"": errdefs.IsInvalidArgument, "..": errdefs.IsInvalidArgument, "a/b": errdefs.IsInvalidArgument,
		strings.Repeat("a", 129): errdefs.IsInvalidArgument,
	} {
		if _, err := s.PrepareOverlay(one, workload); !is(err) {
			t.Errorf("prepare %.20q: %v", workload, err)
		}
		if err := s.CleanupOverlay(workload); !is(err) {
			t.Errorf("clean up %.20q: %v", workload, err)
		}
	}
	if _, err := s.PrepareOverlay("none", "x"); !errdefs.IsNotFound(err) {
		t.Errorf("of an image that is not there: %v", err)
	}
}

// TestManyLayers mounts as many as an image can have.
func TestManyLayers(t *testing.T) {
	s := newTestStore(t, 16<<20)
	var layers [][]byte
	for i := range maxLayers + 1 {
		layers = append(layers, archiveOf(t, regular(fmt.Sprint("file", i), "x")))
	}
	host := testRegistry(t, nil)
	image := push(t, host, "most", imageOf(t, layers[:maxLayers]...))
	if _, _, err := s.pullForTest(t, image); err != nil {
		t.Fatal(err)
	}
	if files, err := os.ReadDir(mustPrepare(t, s, image, "w")); err != nil || len(files) != maxLayers {
		t.Errorf("%d files, %v", len(files), err)
	}
	if _, _, err := s.pullForTest(t, push(t, host, "more", imageOf(t, layers...))); !errdefs.IsResourceExhausted(err) {
		t.Errorf("one more: %v", err)
	}
}

// TestCollect removes what nobody needs and nothing else.
func TestCollect(t *testing.T) {
	s := newTestStore(t, 16<<20)
	host := testRegistry(t, nil)
	base := archiveOf(t, regular("base", "x"))
	first := push(t, host, "image", imageOf(t, base, archiveOf(t, regular("a", strings.Repeat("1", 100<<10)))))
	if _, _, err := s.pullForTest(t, first); err != nil {
		t.Fatal(err)
	}
	mustPrepare(t, s, first, "w")
	// The name moves on to another image: the old one's upper layer is needed by the overlay only.
	if _, _, err := s.pullForTest(t, push(t, host, "image", imageOf(t, base, archiveOf(t, regular("a", "2"))))); err != nil {
		t.Fatal(err)
	}
	for i, step := range []struct {
		dryRun, purge  bool
		images, layers int
		before         func() error
	}{
		{images: 0, layers: 0},
		{dryRun: true, images: 0, layers: 1, before: func() error { return s.CleanupOverlay("w") }},
		{images: 0, layers: 1},
		{dryRun: true, purge: true, images: 1, layers: 2},
		{purge: true, images: 1, layers: 2},
		{purge: true, images: 0, layers: 0},
	} {
		if step.before != nil {
			if err := step.before(); err != nil {
				t.Fatal(err)
			}
		}
		result, err := s.Collect(t.Context(), step.dryRun, step.purge)
		freed := result.FreedBytes > 0
		if err != nil || len(result.Images) != step.images || result.Layers != uint64(step.layers) || freed != (step.layers > 0) ||
			result.DryRun != step.dryRun {
			t.Errorf("step %d: %+v, %v", i, result, err)
		}
		if i == 2 && result.FreedBytes < 100<<10 {
			t.Errorf("%d bytes were freed", result.FreedBytes)
		}
	}
	wantNothingHalfDone(t, s, 0)
}

// TestCollectKeepsHeld: a layer that a pull under way counts on is not removed.
func TestCollectKeepsHeld(t *testing.T) {
	s := newTestStore(t, 16<<20)
	image := push(t, testRegistry(t, nil), "image", imageOf(t, archiveOf(t, regular("a", "1"))))
	if _, _, err := s.pullForTest(t, image); err != nil {
		t.Fatal(err)
	}
	found, err := s.find(image)
	if err != nil {
		t.Fatal(err)
	}
	lock, err := s.holdLayer(found.Chain[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []uint64{0, 1} {
		if result, err := s.Collect(t.Context(), false, true); err != nil || result.Layers != want {
			t.Errorf("removed %d layers, %v, want %d", result.Layers, err, want)
		}
		lock.Close()
	}
}

// TestManyAtOnce pulls, mounts and collects at the same time, as several processes would: what was pulled is whole.
func TestManyAtOnce(t *testing.T) {
	s := newTestStore(t, 32<<20)
	host := testRegistry(t, nil)
	base := archiveOf(t, regular("base", noise(64<<10)))
	var images []string
	for i := range 3 {
		images = append(images, push(t, host, fmt.Sprint("image", i), imageOf(t, base, archiveOf(t, regular("own", fmt.Sprint(i))))))
	}
	var group errgroup.Group
	for i := range 12 {
		group.Go(func() error {
			other, err := Open(s.Options)
			if err != nil {
				return err
			}
			image, workload := images[i%len(images)], fmt.Sprint("w", i)
			if _, _, err := other.pullForTest(t, image); err != nil {
				return err
			}
			info, err := other.PrepareOverlay(image, workload)
			if err != nil {
				return err
			}
			if base, own := look(info.RootfsPath, "base"), look(info.RootfsPath, "own"); base != noise(64<<10) || own != fmt.Sprint(i%len(images)) {
				return fmt.Errorf("%s has %.32q and %q", image, base, own)
			}
			if err := other.CleanupOverlay(workload); err != nil {
				return err
			}
			_, err = other.Collect(t.Context(), false, false)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	if list, err := s.List(); err != nil || len(list) != len(images) {
		t.Errorf("%d images, %v", len(list), err)
	}
	if layers, err := os.ReadDir(filepath.Join(s.Root, layersDir)); err != nil || len(layers) != len(images)+1 {
		t.Errorf("%d layers, %v", len(layers), err)
	}
}

// TestOpenSweeps removes what a process that was killed left in staging, and nothing that a living one has there.
func TestOpenSweeps(t *testing.T) {
	s := newTestStore(t, 4<<20)
	mine, lock, err := s.stage()
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	left := filepath.Join(s.Root, stagingDir, "left")
	if err := os.MkdirAll(filepath.Join(left, "below"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(s.Options); err != nil {
		t.Fatal(err)
	}
	if got := look(left, "."); got != "none" {
		t.Errorf("what was left is still %s", got)
	}
	if got := look(mine, "."); got != "dir" {
		t.Errorf("what is in use is %s", got)
	}
}

// TestExport exports the layers of an image, and pulls an image of them that has the same files.
func TestExport(t *testing.T) {
	s := newTestStore(t, 16<<20)
	layers := [][]byte{
		archiveOf(t, regular("a", "1"), regular("gone", "x"), directoryEntry("dir"), regular("dir/old", "x")),
		archiveOf(t, regular(".wh.gone", ""), regular("dir/.wh..wh..opq", ""), regular("dir/new", "y"),
			link(tar.TypeLink, "dir/again", "dir/new"), link(tar.TypeSymlink, "link", "a")),
	}
	host := testRegistry(t, nil)
	info, _, err := s.pullForTest(t, push(t, host, "image", imageOf(t, layers...)))
	if err != nil {
		t.Fatal(err)
	}
	var exported [][]byte
	for i := range layers {
		var archive bytes.Buffer
		if err := s.Export(t.Context(), info.Digest, uint64(i), &archive); err != nil {
			t.Fatal(err)
		}
		exported = append(exported, archive.Bytes())
	}
	if _, err := s.Collect(t.Context(), false, true); err != nil {
		t.Fatal(err)
	}
	image := push(t, host, "again", imageOf(t, exported...))
	if _, _, err := s.pullForTest(t, image); err != nil {
		t.Fatal(err)
	}
	root := mustPrepare(t, s, image, "w")
	for path, want := range map[string]string{
		"a": "1", "gone": "none", "dir/old": "none", "dir/new": "y", "dir/again": "y", "link": "-> a", "dir": "dir",
	} {
		if got := look(root, path); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
	for _, test := range []struct {
		digest string
		index  uint64
	}{{info.Digest, 0}, {"again", 2}, {image, 1 << 60}} {
		if err := s.Export(context.Background(), test.digest, test.index, &bytes.Buffer{}); !errdefs.IsNotFound(err) {
			t.Errorf("%+v: %v", test, err)
		}
	}
}
