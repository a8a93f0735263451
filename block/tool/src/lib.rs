//! The image tool.
