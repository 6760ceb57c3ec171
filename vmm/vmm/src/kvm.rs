//! Opens /dev/kvm and builds the virtual machine: interrupt controller, vCPUs with their CPUID tables and start state.
//!
//! Some back ends lack parts of this (no VMX means no TSS page): what can be missing is asked for and logged at debug
//! level when refused.

use crate::error::VmmError;
use crate::regs;
use kvm_bindings::{KVM_API_VERSION, KVM_MAX_CPUID_ENTRIES, KVM_MP_STATE_RUNNABLE, kvm_mp_state};
use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};
use log::debug;
use std::io;

/// Four pages that VMX needs where no RAM lies: below the firmware's place at the top of 4 GiB.
const IDENTITY_MAP_PA: u64 = 0xfffb_c000;
const TSS_PA: usize = 0xfffb_d000;

/// Opens /dev/kvm.
///
/// # Errors
/// Tells absence, lack of permission and uselessness apart.
pub fn open() -> Result<Kvm, VmmError> {
    let kvm = Kvm::new().map_err(|e| {
        let error = io::Error::from_raw_os_error(e.errno());
        match e.errno() {
            libc::ENOENT | libc::ENODEV | libc::ENXIO => VmmError::NoKvm(error),
            libc::EACCES | libc::EPERM => VmmError::KvmPermission(error),
            _ => VmmError::KvmUnusable(error.to_string()),
        }
    })?;
    let version = kvm.get_api_version();
    if version < 0 {
        return Err(VmmError::KvmUnusable("it is no KVM device".into()));
    }
    if version != KVM_API_VERSION as i32 {
        return Err(VmmError::KvmUnusable(format!(
            "it speaks version {version} of its interface and not {KVM_API_VERSION}"
        )));
    }
    for (cap, what) in [(Cap::Irqchip, "an interrupt controller"), (Cap::UserMemory, "user memory slots")] {
        if !kvm.check_extension(cap) {
            return Err(VmmError::KvmUnusable(format!("it lacks {what}")));
        }
    }
    Ok(kvm)
}

/// Makes a virtual machine with an in-kernel interrupt controller and no memory.
///
/// # Errors
/// [`VmmError::Kvm`].
pub fn create_vm(kvm: &Kvm) -> Result<VmFd, VmmError> {
    let vm = kvm.create_vm().map_err(VmmError::kvm("create a virtual machine"))?;
    if let Err(e) = vm.set_identity_map_address(IDENTITY_MAP_PA) {
        debug!("KVM_SET_IDENTITY_MAP_ADDR: {e} (needed with VMX alone)");
    }
    if let Err(e) = vm.set_tss_address(TSS_PA) {
        debug!("KVM_SET_TSS_ADDR: {e} (needed with VMX alone)");
    }
    vm.create_irq_chip().map_err(VmmError::kvm("create an interrupt controller"))?;
    Ok(vm)
}

/// Makes vCPU `index` of `cpus`. `entry` is where it starts; without one it stays as reset left it.
///
/// # Errors
/// [`VmmError::Kvm`].
pub fn create_vcpu(
    kvm: &Kvm,
    vm: &VmFd,
    index: u32,
    cpus: u32,
    entry: Option<u32>,
) -> Result<VcpuFd, VmmError> {
    let vcpu = vm.create_vcpu(index.into()).map_err(VmmError::kvm("create a vCPU"))?;
    let mut cpuid = kvm
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(VmmError::kvm("list the CPU features that it supports"))?;
    regs::adjust_cpuid(&mut cpuid, index, cpus);
    vcpu.set_cpuid2(&cpuid).map_err(VmmError::kvm("set a vCPU's features"))?;
    if let Some(entry) = entry {
        let reset = vcpu.get_sregs().map_err(VmmError::kvm("read a vCPU's system registers"))?;
        vcpu.set_sregs(&regs::entry_sregs(reset)).map_err(VmmError::kvm("set a vCPU's system registers"))?;
        vcpu.set_regs(&regs::entry_regs(entry)).map_err(VmmError::kvm("set a vCPU's registers"))?;
        if let Err(e) = vcpu.set_mp_state(kvm_mp_state { mp_state: KVM_MP_STATE_RUNNABLE }) {
            debug!("KVM_SET_MP_STATE: {e} (the boot vCPU is runnable as it is)");
        }
    }
    Ok(vcpu)
}

/// Frequency of the guest's TSC, kHz; 0 when KVM does not say.
pub fn tsc_khz(vcpu: &VcpuFd) -> u64 {
    vcpu.get_tsc_khz().map_or_else(
        |e| {
            debug!("KVM_GET_TSC_KHZ: {e}");
            0
        },
        u64::from,
    )
}
