//! The devices on the I/O bus: the hypercall device, the serial port, the debug exit, and nothing anywhere else.

pub mod hypercall;
pub mod ports;
