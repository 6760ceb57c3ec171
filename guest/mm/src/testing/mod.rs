//! Host-side test environment.
