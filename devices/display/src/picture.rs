//! Pictures of a display as files: PPM (netpbm's `P6`) and PNG.

use std::io::{self, Write};

use device::Surface;

/// A file format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PictureFormat {
    /// netpbm's `P6`.
    #[default]
    Ppm,
    /// Portable Network Graphics.
    Png,
}

impl PictureFormat {
    /// The format of a name.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "ppm" => Some(Self::Ppm),
            "png" => Some(Self::Png),
            _ => None,
        }
    }
}

/// Why a picture was not written.
#[derive(Debug, thiserror::Error)]
pub enum PictureError {
    /// The file.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The encoder; a surface without pixels.
    #[error("the picture cannot be encoded: {0}")]
    Png(#[from] png::EncodingError),
}

/// Writes a surface as a picture.
pub fn write_picture(
    surface: &Surface,
    format: PictureFormat,
    mut to: impl Write,
) -> Result<(), PictureError> {
    let bytes: Vec<u8> =
        surface.pixels.iter().flat_map(|p| [(p >> 16) as u8, (p >> 8) as u8, *p as u8]).collect();
    match format {
        PictureFormat::Ppm => {
            write!(to, "P6\n{} {}\n255\n", surface.width, surface.height)?;
            to.write_all(&bytes)?;
        }
        PictureFormat::Png => {
            let mut encoder = png::Encoder::new(&mut to, surface.width, surface.height);
            encoder.set_color(png::ColorType::Rgb);
            encoder.set_depth(png::BitDepth::Eight);
            let mut writer = encoder.write_header()?;
            writer.write_image_data(&bytes)?;
            writer.finish()?;
        }
    }
    to.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats_hold_the_pixels() {
        let surface = Surface { width: 2, height: 1, pixels: vec![0x0001_0203, 0x00ff_8000] };
        let mut ppm = Vec::new();
        write_picture(&surface, PictureFormat::Ppm, &mut ppm).unwrap();
        assert_eq!(ppm, b"P6\n2 1\n255\n\x01\x02\x03\xff\x80\x00");
        let mut file = Vec::new();
        write_picture(&surface, PictureFormat::Png, &mut file).unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(&file)).read_info().unwrap();
        let mut pixels = vec![0; 6];
        let info = reader.next_frame(&mut pixels).unwrap();
        assert_eq!((info.width, info.height, &pixels[..]), (2, 1, &[1, 2, 3, 0xff, 0x80, 0][..]));
        assert!(write_picture(&Surface::default(), PictureFormat::Png, Vec::new()).is_err());
    }
}
