//! Legacy I/O ports: the serial port at 0x3f8, the hypercall device's identity, the debug exit. Every other port reads as
//! all ones and swallows what is written, noted once a port at debug level.
//!
//! Lock: the serial port's and the list of ports met are leaves.

use crate::machine::Machine;
use log::debug;
use ptshare_wire::hypercall::{DEVICE_MAGIC, PORT_ID};
use ptshare_wire::layout::SERIAL_PORT;
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::{Mutex, PoisonError};
use vm_superio::serial::NoEvents;
use vm_superio::{Serial, Trigger};

/// Registers of a 16550.
const SERIAL_PORTS: u16 = 8;

/// The serial port raises no interrupts: it only carries early messages out.
struct NoInterrupt;

impl Trigger for NoInterrupt {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        Ok(())
    }
}

/// The ports.
pub struct Ports {
    serial: Mutex<Serial<NoInterrupt, NoEvents, Vec<u8>>>,
    met: Mutex<BTreeSet<u16>>,
}

impl Default for Ports {
    fn default() -> Self {
        Ports { serial: Mutex::new(Serial::new(NoInterrupt, Vec::new())), met: Mutex::default() }
    }
}

/// The serial register behind a port.
fn serial_register(port: u16) -> Option<u8> {
    port.checked_sub(SERIAL_PORT).filter(|&r| r < SERIAL_PORTS).map(|r| r as u8)
}

impl Ports {
    /// The guest reads `data.len()` bytes from `port`.
    pub fn read(&self, port: u16, data: &mut [u8]) {
        data.fill(0xff);
        if let Some(register) = serial_register(port) {
            let mut serial = self.serial.lock().unwrap_or_else(PoisonError::into_inner);
            for byte in data {
                *byte = serial.read(register);
            }
        } else if port == PORT_ID && data.len() == 4 {
            data.copy_from_slice(&DEVICE_MAGIC.to_le_bytes());
        } else {
            self.note(port, "reads from");
        }
    }

    /// The guest writes `data` to `port`, which is none of the hypercall device's.
    pub fn write(&self, machine: &Machine, port: u16, data: &[u8]) {
        let Some(register) = serial_register(port) else { return self.note(port, "writes to") };
        let text = {
            let mut serial = self.serial.lock().unwrap_or_else(PoisonError::into_inner);
            for byte in data {
                // Writing to a Vec and raising no interrupt cannot fail.
                let _ = serial.write(register, *byte);
            }
            std::mem::take(serial.writer_mut())
        };
        if !text.is_empty() {
            machine.serial_text(&text);
        }
    }

    fn note(&self, port: u16, verb: &str) {
        if self.met.lock().unwrap_or_else(PoisonError::into_inner).insert(port) {
            debug!("the guest {verb} I/O port {port:#x}, where there is nothing");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::testing::machine;

    #[test]
    fn serial_output_reaches_the_kernel_log() {
        let (machine, ports) = (machine(b""), Ports::default());
        for byte in b"early\n" {
            ports.write(&machine, SERIAL_PORT, &[*byte]);
        }
        ports.write(&machine, 0x80, &[1]);
        assert_eq!(machine.record().kernel_log, "early\n");
        let mut status = [0];
        ports.read(SERIAL_PORT + 5, &mut status);
        assert_eq!(status[0] & 0x20, 0x20, "transmitter empty");
    }

    #[test]
    fn only_the_hypercall_device_has_an_identity() {
        let ports = Ports::default();
        let mut word = [0; 4];
        ports.read(PORT_ID, &mut word);
        assert_eq!(u32::from_le_bytes(word), DEVICE_MAGIC);
        for (port, len) in [(PORT_ID, 1), (0x60, 1), (0xcfc, 4)] {
            let mut data = vec![0; len];
            ports.read(port, &mut data);
            assert_eq!(data, vec![0xff; len]);
        }
    }
}
