package hypervisor

// Check is what one look at the host found out.
type Check struct {
	Name   string `json:"name"`             // what was looked at
	OK     bool   `json:"ok"`               // a machine can be made with it
	Detail string `json:"detail"`           // what was found
	Remedy string `json:"remedy,omitempty"` // the way out, or how to do better
}

// NewCheck is the result of a look that ended with an error, or with nil and what it found.
func NewCheck(name, detail string, err error) Check {
	if err != nil {
		return Check{Name: name, Detail: err.Error()}
	}
	return Check{Name: name, OK: true, Detail: detail}
}

// CheckAccelerator tells what the choice comes to on this host. That "auto" does not take KVM is no failure: TCG works everywhere.
func (h Host) CheckAccelerator(choice Accelerator) Check {
	accelerator, reason, err := h.decide(choice)
	check := NewCheck("accelerator", string(accelerator)+": "+reason, err)
	if choice == AcceleratorAuto && accelerator == AcceleratorTCG {
		check.Remedy = "machines are emulated and slow; on hardware, enable virtualization in the firmware and load kvm_intel or kvm_amd; " +
			"in a cloud, take an instance with nested virtualization"
	}
	return check
}
