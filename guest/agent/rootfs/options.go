package rootfs

import (
	"slices"

	"golang.org/x/sys/unix"
)

// options are what a mount's options say. See mount(8) and mount_setattr(2).
type options struct {
	bind        bool
	recursive   bool     // of a bind: with what is mounted below
	attributes  uint64   // MOUNT_ATTR_*
	atime       *uint64  // one of MOUNT_ATTR__ATIME; nil: the usual one, of a bind the source's
	sets        uint64   // attributes that it and all mounts below it have
	clears      uint64   // and those that they do not have
	propagation []change // one after the other
	flags       []string // of the file system
	data        []string // of the file system: "key" or "key=value"
}

// change is a change of the propagation of mounts.
type change struct {
	propagation uint64 // MS_PRIVATE or the like
	recursive   bool
}

// attributes are the options that are attributes of a mount, and what takes them back.
var attributes = map[string]struct {
	attribute uint64
	taken     bool
}{
	"ro": {unix.MOUNT_ATTR_RDONLY, false}, "rw": {unix.MOUNT_ATTR_RDONLY, true},
	"nosuid": {unix.MOUNT_ATTR_NOSUID, false}, "suid": {unix.MOUNT_ATTR_NOSUID, true},
	"nodev": {unix.MOUNT_ATTR_NODEV, false}, "dev": {unix.MOUNT_ATTR_NODEV, true},
	"noexec": {unix.MOUNT_ATTR_NOEXEC, false}, "exec": {unix.MOUNT_ATTR_NOEXEC, true},
	"nodiratime": {unix.MOUNT_ATTR_NODIRATIME, false}, "diratime": {unix.MOUNT_ATTR_NODIRATIME, true},
}

// recursiveAttributes are those of attributes that have a recursive form, with an r before them.
var recursiveAttributes = []string{"ro", "rw", "nosuid", "suid", "nodev", "dev", "noexec", "exec"}

// atimes are the options that say when the time of access is written.
var atimes = map[string]uint64{
	"noatime": unix.MOUNT_ATTR_NOATIME, "relatime": unix.MOUNT_ATTR_RELATIME, "strictatime": unix.MOUNT_ATTR_STRICTATIME,
}

// propagations are the options that say where mounts below appear, too.
var propagations = map[string]change{
	"private": {unix.MS_PRIVATE, false}, "rprivate": {unix.MS_PRIVATE, true}, "slave": {unix.MS_SLAVE, false}, "rslave": {unix.MS_SLAVE, true},
	"shared": {unix.MS_SHARED, false}, "rshared": {unix.MS_SHARED, true},
	"unbindable": {unix.MS_UNBINDABLE, false}, "runbindable": {unix.MS_UNBINDABLE, true},
}

// rootPropagations are propagations of the root, by their names. Nothing means a private one.
var rootPropagations = map[string]uintptr{
	"": unix.MS_REC | unix.MS_PRIVATE, "private": unix.MS_PRIVATE, "rprivate": unix.MS_REC | unix.MS_PRIVATE,
	"slave": unix.MS_SLAVE, "rslave": unix.MS_REC | unix.MS_SLAVE, "shared": unix.MS_SHARED, "rshared": unix.MS_REC | unix.MS_SHARED,
}

// unsupported are options that are no file system's and that this package does not do.
var unsupported = []string{
	"remount", "atime", "nostrictatime", "norelatime", "tmpcopyup", "idmap", "ridmap", "copy-symlink", "rsync", "rasync", "rdirsync", "rmand",
	"rnomand", "ratime", "rnoatime", "rdiratime", "rnodiratime", "rrelatime", "rnorelatime", "rstrictatime", "rnostrictatime",
}

// parseOptions reads a mount's options, of which a later one may take back an earlier one. known is false if it cannot do one of them.
func parseOptions(given []string) (o options, known bool) {
	for _, option := range given {
		attribute, isAttribute := attributes[option]
		atime, isAtime := atimes[option]
		propagation, isPropagation := propagations[option]
		switch {
		case option == "bind", option == "rbind":
			o.bind, o.recursive = true, o.recursive || option == "rbind"
		case isAttribute && attribute.taken:
			o.attributes &^= attribute.attribute
		case isAttribute:
			o.attributes |= attribute.attribute
		case isAtime:
			o.atime = &atime
		case isPropagation:
			o.propagation = append(o.propagation, propagation)
		case option == "sync", option == "dirsync":
			o.flags = append(o.flags, option)
		case option == "async":
			o.flags = slices.DeleteFunc(o.flags, func(flag string) bool { return flag == "sync" })
		case option == "defaults", option == "mand", option == "nomand": // nothing that this kernel knows
		case slices.Contains(unsupported, option):
			return o, false
		case len(option) > 1 && option[0] == 'r' && slices.Contains(recursiveAttributes, option[1:]):
			if attribute := attributes[option[1:]]; attribute.taken {
				o.clears, o.sets = o.clears|attribute.attribute, o.sets&^attribute.attribute
			} else {
				o.sets, o.clears = o.sets|attribute.attribute, o.clears&^attribute.attribute
			}
		default:
			o.data = append(o.data, option)
		}
	}
	return o, true
}

// mountFlags are the options as mount(2) takes them, without those that only take effect at the end.
func (o *options) mountFlags() uintptr {
	var flags uintptr
	for _, f := range []struct {
		attribute uint64
		flag      uintptr
	}{
		{unix.MOUNT_ATTR_NOSUID, unix.MS_NOSUID}, {unix.MOUNT_ATTR_NODEV, unix.MS_NODEV}, {unix.MOUNT_ATTR_NOEXEC, unix.MS_NOEXEC},
		{unix.MOUNT_ATTR_NODIRATIME, unix.MS_NODIRATIME},
	} {
		if o.attributes&f.attribute != 0 {
			flags |= f.flag
		}
	}
	if o.atime != nil {
		switch *o.atime {
		case unix.MOUNT_ATTR_NOATIME:
			flags |= unix.MS_NOATIME
		case unix.MOUNT_ATTR_STRICTATIME:
			flags |= unix.MS_STRICTATIME
		}
	}
	return flags
}

// settable are the attributes that a bind has as its options say, and not as its source.
const settable = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC

// attr is the change that gives a mount its attributes, without that of being read-only.
func (o *options) attr() *unix.MountAttr {
	attr := &unix.MountAttr{Attr_clr: settable | unix.MOUNT_ATTR_RDONLY, Attr_set: o.attributes &^ unix.MOUNT_ATTR_RDONLY}
	if o.atime != nil {
		attr.Attr_clr |= unix.MOUNT_ATTR__ATIME
		attr.Attr_set |= *o.atime
	}
	return attr
}

// readOnly tells whether the mount itself is read-only.
func (o *options) readOnly() bool { return o.attributes&unix.MOUNT_ATTR_RDONLY != 0 }
