//! Builds, runs and tests ptshare.
