package runtime

import "encoding/binary"

// The kinds of requests to an ssh-agent by which its keys are used: draft-miller-ssh-agent, 5.1. An agent takes who comes by its socket for
// its user, and lets him add and remove keys, lock it, and load a library of his choice (SSH_AGENTC_ADD_SMARTCARD_KEY), too.
const (
	sshListKeys  = 11 // SSH_AGENTC_REQUEST_IDENTITIES
	sshSign      = 13 // SSH_AGENTC_SIGN_REQUEST
	sshExtension = 27 // SSH_AGENTC_EXTENSION
)

// sshSessionBind is the extension by which a client tells for which host it is about to sign.
const sshSessionBind = "session-bind@openssh.com"

// sshRefusal is an agent's answer to what it does not do, with its length: SSH_AGENT_FAILURE.
var sshRefusal = []byte{0, 0, 0, 1, 5}

// usesSSHKeys tells whether a request, which has its length before it, does nothing but use an agent's keys.
func usesSSHKeys(request []byte) bool {
	const length = 4 // bytes of one
	if len(request) <= length {
		return false
	}
	kind, rest := request[length], request[length+1:]
	if kind != sshExtension {
		return kind == sshListKeys || kind == sshSign
	}
	if len(rest) < length || uint64(binary.BigEndian.Uint32(rest)) > uint64(len(rest)-length) {
		return false
	}
	return string(rest[length:][:binary.BigEndian.Uint32(rest)]) == sshSessionBind
}
