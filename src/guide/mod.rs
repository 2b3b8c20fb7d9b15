//! Guides: longer texts with code, one for each task.
//!
//! | guide | after reading it, you can |
//! | --- | --- |
//! | [`embedding`] | fetch images, or some of their layers, in a server or a command, into a store of your own |
//! | [`migration`] | use this crate instead of `containers-image-proxy`, at first by changing one line |
//! | [`credentials_and_policy`] | log in, keep secrets secret, and accept only signed images |
//! | [`many_images`] | pull lists and all platforms of an image, and keep a mirror up to date |
//! | [`message_passing`] | build an actor that owns a socket, and say why it is correct |
//! | [`tuning`] | find out what a pull waits for, and change the option that helps |
//! | [`operating`] | size a machine, watch pulls, and know what a crash leaves behind |
//! | [`fleet`] | serve many machines from a cache, mirror a list every hour, and share a list among machines |
//!
//! Excerpts of the code of this crate name their file. A test compares each of them with that file.

pub mod credentials_and_policy;
pub mod embedding;
pub mod fleet;
pub mod many_images;
pub mod message_passing;
pub mod migration;
pub mod operating;
pub mod tuning;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    /// The end of the line before an excerpt. It follows the name of the file.
    const END_OF_FILE_NAME: &str = "`:";

    /// Returns the file and the lines of each excerpt of a guide. The line before an excerpt ends with the file's path
    /// in backticks and a colon. An empty line follows it.
    fn excerpts(guide: &str) -> Vec<(String, Vec<String>)> {
        let lines: Vec<&str> = guide
            .lines()
            .map(|line| line.trim_start_matches("//!").trim())
            .collect();
        let mut found = Vec::new();
        for (at, line) in lines.iter().enumerate() {
            let Some(named) = line.strip_suffix(END_OF_FILE_NAME) else {
                continue;
            };
            let file = named.rsplit('`').next().unwrap_or_default();
            let quoted = lines[at + 1..].iter().skip(2);
            let quoted = quoted.take_while(|line| !line.starts_with("```"));
            found.push((
                file.to_owned(),
                quoted.map(|line| (*line).to_owned()).collect(),
            ));
        }
        found
    }

    #[test]
    fn every_excerpt_of_a_guide_is_in_its_file() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut compared = 0;
        for entry in fs::read_dir(root.join("src/guide")).expect("the guides") {
            let path = entry.expect("a guide").path();
            if path.ends_with("mod.rs") {
                continue;
            }
            for (file, quoted) in excerpts(&fs::read_to_string(&path).expect("a guide")) {
                let source = fs::read_to_string(root.join(&file)).expect("the file of an excerpt");
                let source: Vec<&str> = source.lines().map(str::trim).collect();
                // An ellipsis stands for lines that are left out.
                for part in quoted.split(|line| line == "// ...") {
                    let is_there = source.windows(part.len()).any(|lines| lines == part);
                    assert!(is_there, "{}: not in {file}: {part:#?}", path.display());
                    compared += 1;
                }
            }
        }
        assert!(compared > 0);
    }
}
