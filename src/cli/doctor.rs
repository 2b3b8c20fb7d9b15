//! The command `longshore doctor`: can pulls work here, and if not, what is to be done?

mod diagnosis;
mod machine;
mod page;
mod settings;
mod skopeo;

use longshore::ImageProxyConfig;

use self::diagnosis::Report;
use self::machine::Machine;
use self::settings::Settings;
use super::args::DoctorArguments;
use super::failure::Failure;
use super::format::{counted, json_line};
use super::say::print;

pub(crate) async fn run(
    arguments: DoctorArguments,
    config: ImageProxyConfig,
) -> Result<(), Failure> {
    let DoctorArguments {
        image, json, proxy, ..
    } = arguments;
    let for_settings = config.clone();
    let looking =
        tokio::task::spawn_blocking(move || (Settings::of(&for_settings), Machine::now()));
    let (settings, machine) = looking.await.map_err(anyhow::Error::from)?;
    let deadline = proxy.source.deadline;
    let skopeo = skopeo::examine(config, image.as_deref(), deadline, proxy.source.access()).await;
    let report = Report::new(settings, machine, skopeo);
    let text = if json {
        let line = json_line(&report).map_err(anyhow::Error::from)?;
        format!("{line}\n")
    } else {
        page::text(&report)
    };
    print(text).await?;
    match report.problems.len() {
        0 => Ok(()),
        count => {
            let problems = counted(count, "problem");
            Err(anyhow::anyhow!("pulls can't work: {problems}, see the report").into())
        }
    }
}
