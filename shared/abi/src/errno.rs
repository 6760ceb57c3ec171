//! Error numbers: positive inside the kernel, negated at one place.

use linux_raw_sys::errno as raw;

/// A Linux error number, `1..4096`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Errno(u16);

macro_rules! errnos {
    ($($name:ident)+) => {
        #[allow(missing_docs)]
        impl Errno {
            $(pub const $name: Errno = Errno(raw::$name as u16);)+
        }

        impl Errno {
            /// The symbolic name, `E...`.
            pub const fn name(self) -> &'static str {
                $(if self.0 == Errno::$name.0 { return stringify!($name); })+
                "E?"
            }
        }
    };
}

errnos! {
    EPERM ENOENT ESRCH EINTR EIO ENXIO E2BIG ENOEXEC EBADF ECHILD EAGAIN ENOMEM EACCES EFAULT ENOTBLK EBUSY EEXIST
    EXDEV ENODEV ENOTDIR EISDIR EINVAL ENFILE EMFILE ENOTTY ETXTBSY EFBIG ENOSPC ESPIPE EROFS EMLINK EPIPE EDOM ERANGE
    EDEADLK ENAMETOOLONG ENOLCK ENOSYS ENOTEMPTY ELOOP EIDRM EOVERFLOW EBADFD EUSERS ENOTSOCK EOPNOTSUPP EPROTONOSUPPORT
    EAFNOSUPPORT EADDRINUSE ENOTCONN ETIMEDOUT ECONNREFUSED EALREADY ESTALE EDQUOT ECANCELED EOWNERDEAD
    ENOTRECOVERABLE EHWPOISON ESOCKTNOSUPPORT EPROTOTYPE ENODATA ELIBBAD ENOMSG EISCONN
    ENOPROTOOPT ETOOMANYREFS ECONNRESET
}

impl Errno {
    /// The value that a system call returns in RAX. The only place where the sign is applied.
    #[inline]
    pub const fn to_rax(self) -> u64 {
        (-(self.0 as i64)) as u64
    }

    /// The positive number.
    #[inline]
    pub const fn number(self) -> u16 {
        self.0
    }
}

impl core::fmt::Debug for Errno {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sign_is_applied_once() {
        assert_eq!(Errno::ENOMEM.to_rax() as i64, -12);
        assert_eq!(Errno::ENOMEM.name(), "ENOMEM");
    }
}
