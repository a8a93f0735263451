//! What the configs of all cards have in common: an address, and where the cable leads.

/// A config with the property `mac` and a back end, and more properties of its own if it names them.
macro_rules! card_config {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default)]
        pub struct $name {
            /// Address, as 52:54:00:12:34:56.
            pub mac: Option<String>,
            /// Where its cable leads.
            pub backend: $crate::port::NicBackend,
        }

        impl ::device::Properties for $name {
            fn properties() -> Vec<::device::Property> {
                vec![::device::Property {
                    name: "mac",
                    ty: <String as ::device::PropertyValue>::TYPE,
                    default: String::new(),
                    help: " Address, as 52:54:00:12:34:56.",
                }]
            }

            fn set(&mut self, name: &str, value: &str) -> Result<(), ::device::PropertyError> {
                if name != "mac" {
                    let (name, known) = (name.to_owned(), "mac".to_owned());
                    return Err(::device::PropertyError::Unknown { name, known });
                }
                self.mac = Some(value.to_owned());
                Ok(())
            }
        }
    };
}

pub(crate) use card_config;
