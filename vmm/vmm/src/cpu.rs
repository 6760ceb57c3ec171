//! A CPU of the guest as whatever runs it shows it: registers, while it stands still.

use kvm_bindings::{kvm_regs, kvm_sregs};
use kvm_ioctls::VcpuFd;

/// The registers that checkpoints and reports use. KVM's records serve for every engine.
#[derive(Clone, Copy, Default, Debug)]
pub struct CpuState {
    /// General registers.
    pub regs: kvm_regs,
    /// System registers.
    pub sregs: kvm_sregs,
}

/// A CPU that stands still, outside the guest.
pub trait Cpu {
    /// Its registers now.
    ///
    /// # Errors
    /// Why the engine does not give them.
    fn state(&self) -> Result<CpuState, String>;

    /// Registers of all CPUs that one thread runs, in order of their numbers, of which this one is among. A thread a CPU
    /// unless the engine has it otherwise.
    ///
    /// # Errors
    /// As [`Cpu::state`].
    fn states(&self) -> Result<Vec<CpuState>, String> {
        self.state().map(|state| vec![state])
    }

    /// The guest-physical address behind a virtual one, as this CPU would translate it now; `None` if it would fault.
    ///
    /// # Errors
    /// Why the engine cannot say.
    fn translate(&self, va: u64) -> Result<Option<u64>, String>;

    /// As [`Cpu::translate`], by the CPU that comes `offset` places behind the first in [`Cpu::states`].
    ///
    /// # Errors
    /// As [`Cpu::translate`].
    fn translate_on(&self, offset: u32, va: u64) -> Result<Option<u64>, String> {
        let _ = offset;
        self.translate(va)
    }
}

impl Cpu for VcpuFd {
    fn state(&self) -> Result<CpuState, String> {
        let why = |e| format!("KVM does not give a vCPU's registers: {e}");
        Ok(CpuState { regs: self.get_regs().map_err(why)?, sregs: self.get_sregs().map_err(why)? })
    }

    fn translate(&self, va: u64) -> Result<Option<u64>, String> {
        let answer = self.translate_gva(va).map_err(|e| format!("KVM_TRANSLATE: {e}"))?;
        Ok((answer.valid != 0).then_some(answer.physical_address))
    }
}
