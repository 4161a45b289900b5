//! Persistent store: records in sled, bytes in files.
