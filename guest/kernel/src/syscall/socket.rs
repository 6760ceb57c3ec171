//! The calls that need a socket. There is no network, and what socketpair gives is two pipes: every descriptor is
//! something else.

use super::{Args, SysResult};
use crate::task::current;
use ptshare_abi::Errno;
use ptshare_machine::trap::TrapFrame;

/// EBADF for a descriptor that is not open, ENOTSOCK for one that is.
fn not_a_socket(fd: u64) -> SysResult {
    current().process.files().get(fd as i32)?;
    Err(Errno::ENOTSOCK.into())
}

macro_rules! not_sockets {
    ($($name:ident)+) => {
        $(
            #[doc = concat!(stringify!($name), "(2).")]
            pub fn $name(a: &Args, _: &mut TrapFrame) -> SysResult {
                not_a_socket(a[0])
            }
        )+
    };
}

not_sockets! {
    connect accept accept4 sendto recvfrom sendmsg recvmsg shutdown bind listen getsockname getpeername setsockopt
    getsockopt
}
