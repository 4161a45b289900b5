//! Turns an uploaded code package into a read-only file system image.
