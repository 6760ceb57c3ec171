//! What the boot tests share.
