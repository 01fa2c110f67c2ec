// Package sysctl knows the names of the kernel's parameters.
package sysctl

import (
	"path"
	"strings"
)

// Name is a parameter's name with slashes: its file below /proc/sys. As with sysctl(8), a name whose first separator is a dot has a
// slash where a part of it has a dot. What cannot be a name, because it leads elsewhere, is "".
func Name(name string) string {
	if first := strings.IndexAny(name, "./"); first >= 0 && name[first] == '.' {
		name = strings.Map(func(r rune) rune {
			switch r {
			case '.':
				return '/'
			case '/':
				return '.'
			}
			return r
		}, name)
	}
	if path.Clean("/"+name) != "/"+name {
		return ""
	}
	return name
}

// File is the path of the parameter with that name with slashes.
func File(name string) string { return path.Join("/proc/sys", name) }
