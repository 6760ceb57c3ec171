//! What runs the guest: KVM, or QEMU's emulation where there is no KVM.

use crate::error::VmmError;
use crate::{kvm, qemu};
use kvm_ioctls::Kvm;
use std::fmt;
use std::str::FromStr;

/// An engine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Engine {
    /// The host's KVM, with this crate as its user.
    Kvm,
    /// QEMU's emulation (TCG), with this crate as the other end of its doorbell.
    Qemu,
}

impl Engine {
    /// As reports call it.
    pub fn name(self) -> &'static str {
        match self {
            Engine::Kvm => "kvm",
            Engine::Qemu => "qemu",
        }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Says what `auto` means to a run and to all that it starts.
pub const VARIABLE: &str = "PTSHARE_ENGINE";

/// What the user asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum EngineChoice {
    /// The engine that the environment variable [`VARIABLE`] names, or KVM where it can be used, otherwise QEMU.
    #[default]
    Auto,
    /// This engine and no other.
    Only(Engine),
}

impl FromStr for EngineChoice {
    type Err = String;

    /// `auto`, `kvm` or `qemu`.
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(EngineChoice::Auto),
            "kvm" => Ok(EngineChoice::Only(Engine::Kvm)),
            "qemu" => Ok(EngineChoice::Only(Engine::Qemu)),
            _ => Err(format!("`{text}` is not one of auto, kvm, qemu")),
        }
    }
}

/// An engine that can be used.
pub(crate) enum Ready {
    /// KVM, opened.
    Kvm(Kvm),
    /// QEMU is installed.
    Qemu,
}

impl Ready {
    pub(crate) fn engine(&self) -> Engine {
        match self {
            Ready::Kvm(_) => Engine::Kvm,
            Ready::Qemu => Engine::Qemu,
        }
    }
}

/// Which engine a choice comes to on this machine, and one line of notice when that is not the usual one.
///
/// # Errors
/// The engine asked for, or any, cannot be used; the message says what to install.
pub fn choose(choice: EngineChoice) -> Result<(Engine, Option<String>), VmmError> {
    let (ready, notice) = open(choice)?;
    Ok((ready.engine(), notice))
}

pub(crate) fn open(choice: EngineChoice) -> Result<(Ready, Option<String>), VmmError> {
    let usable_kvm = || {
        let kvm = kvm::open()?;
        // A device that opens may still make no machine.
        kvm::create_vm(&kvm).map(|_| Ready::Kvm(kvm))
    };
    let choice = match (choice, std::env::var(VARIABLE)) {
        (EngineChoice::Auto, Ok(name)) if !name.is_empty() => {
            name.parse().map_err(|why| VmmError::Usage(format!("{VARIABLE}: {why}")))?
        }
        (choice, _) => choice,
    };
    match choice {
        EngineChoice::Only(Engine::Kvm) => usable_kvm().map(|ready| (ready, None)),
        EngineChoice::Only(Engine::Qemu) => qemu::find().map(|()| (Ready::Qemu, None)),
        EngineChoice::Auto => match usable_kvm() {
            Ok(ready) => Ok((ready, None)),
            Err(kvm) => match qemu::find() {
                Ok(()) => {
                    let why = kvm.to_string();
                    let why = why.split(&[':', '('][..]).next().unwrap_or_default().trim_end().to_owned();
                    Ok((Ready::Qemu, Some(format!("{why}: using QEMU's emulation instead"))))
                }
                Err(_) => Err(VmmError::NoEngine(Box::new(kvm))),
            },
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_are_named_on_the_command_line() {
        assert_eq!("auto".parse(), Ok(EngineChoice::Auto));
        for engine in [Engine::Kvm, Engine::Qemu] {
            assert_eq!(engine.name().parse(), Ok(EngineChoice::Only(engine)));
        }
        assert!("xen".parse::<EngineChoice>().is_err());
    }
}
