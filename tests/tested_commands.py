"""Each command shown, and the test that runs it; commands that differ only in parameters have one entry."""

from __future__ import annotations

SHOWN, PIPELINE, BENCHMARKS = "tests/test_commands_shown.py", "tests/pipeline", "tests/benchmarks"
VAE = f"{PIPELINE}/trained/test_commands.py::test_every_command_runs_on_every_kind_of_model"
CLASS = f"{PIPELINE}/trained/test_class_option.py::test_a_class_is_given_by_name_or_number_for_all_images_or_each"
BETA = f"{PIPELINE}/test_dvc.py::test_another_beta_skips_prepare_trades_rate_for_distortion_and_can_be_restored"
COMMITS = f"{PIPELINE}/test_experiments.py::test_two_commits_can_be_compared_in_a_clone_without_a_cache"
PLOTS = f"{PIPELINE}/test_experiments.py::test_plots_are_shown_and_compared_without_a_network"
QUEUE = f"{PIPELINE}/test_experiments.py::test_queued_experiments_run_the_sources_of_their_own_snapshot"
CLONES = f"{PIPELINE}/test_experiments.py::test_two_clones_share_experiments_and_models_through_remotes"
SEEDS = f"{PIPELINE}/test_experiments.py::test_a_run_is_verified_against_the_band_of_seeds"
KILLED = f"{PIPELINE}/test_dvc.py::test_a_killed_training_resumes_when_run_again"
MACHINES = f"{PIPELINE}/test_distributed.py::test_two_machines_compute_the_curves_of_one_and_the_first_writes_them"
OWN_DATA = f"{PIPELINE}/test_dvc.py::test_other_data_can_be_used_in_an_experiment"
RECIPE = f"{PIPELINE}/test_dvc.py::test_recipes_are_a_separate_dvc_project_with_experiments_of_their_own"
RECIPES = f"{PIPELINE}/test_recipes.py::test_every_recipe_runs"
PULL = f"{PIPELINE}/test_dvc.py::test_a_fresh_clone_pulls_the_model_and_samples_without_training_or_a_compiler"
README = f"{PIPELINE}/test_readme.py::test_the_python_code_shown_runs"
WORKED = f"{PIPELINE}/test_worked_examples.py::test_the_likelihood_optimizer_and_figure_examples_work"
COMPARED = f"{PIPELINE}/test_readme.py::test_the_comparison_shown_is_the_one_printed"
LAYERS = "tests/test_docs.py::test_the_layers_shown_are_those_that_are_checked"
SETUP = f"{SHOWN}::test_setup_installs_the_lock_and_a_vae_command"
LOCK = f"{SHOWN}::test_lock_has_a_checksum_for_every_file_and_leaves_torch_out"
CHECKS = f"{SHOWN}::test_the_tools_of_make_test_accept_their_options"
KERNEL = f"{BENCHMARKS}/test_report.py::test_kernel_timings_of_two_commits_can_be_compared"
PROFILE = f"{BENCHMARKS}/test_step_profile.py::test_profile_accounts_for_the_whole_step_and_knows_every_operator_of_it"
RECORD = f"{BENCHMARKS}/test_report.py::test_make_bench_record_writes_the_results_of_two_runs"
TABLE = f"{BENCHMARKS}/test_report.py::test_make_bench_prints_a_table_and_fails_if_a_provider_fails"

# command -> the test that runs it
TESTS = {
    # Set-up
    "make": SETUP,
    "python3 -m venv .venv": SETUP,
    ".venv/bin/pip install --no-compile --disable-pip-version-check --requirement requirements.lock": SETUP,
    ".venv/bin/pip install --no-compile --disable-pip-version-check torch==2.13.0": SETUP,
    "python3 pipeline/prerequisites.py": "tests/test_setup.py::test_an_unsupported_python_is_rejected_before_the_installation",
    ". .venv/bin/activate": SETUP,
    (
        ".venv/bin/uv pip compile pyproject.toml --extra cuda --group pipeline --group onnx --group dev"
        " --group docs --universal --generate-hashes --no-emit-package torch --quiet --output-file requirements.lock"
    ): LOCK,
    "python docs/hooks/reference.py": "tests/test_reference.py::test_the_tables_match_the_code",
    "mkdocs build --strict": "tests/test_docs.py::test_the_site_is_complete_and_needs_no_network",
    # make test
    "ruff check .": CHECKS,
    "ruff format --check .": CHECKS,
    "clang-format --dry-run --Werror csrc/*.h csrc/*/* tests/*/*.h tests/*/*.cpp": CHECKS,
    "mypy": CHECKS,
    "lint-imports --no-cache": "tests/pipeline/test_dependencies.py::test_an_import_from_a_higher_package_fails_the_check",
    "pytest -n logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder -m 'not long'": CHECKS,
    "pytest -n logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder": CHECKS,
    # The experiment, and others
    "dvc repro": f"{PIPELINE}/test_dvc.py::test_second_repro_runs_nothing_and_forced_stages_write_the_same_bytes",
    "dvc repro --force": f"{PIPELINE}/test_dvc.py::test_second_repro_runs_nothing_and_forced_stages_write_the_same_bytes",
    "python -m pipeline.check": f"{PIPELINE}/test_main.py::test_reading_files_does_not_depend_on_the_locale",
    "dvc metrics show": COMMITS,
    "python -m pipeline.studies.verify": SEEDS,
    'git commit -am "Results here"': COMMITS,
    "dvc exp run -S beta=0.5": BETA,
    "dvc exp run -S model.latent_dim=2": KILLED,
    "dvc exp run -S objective.bound=iwae -S objective.samples=5": (
        f"{PIPELINE}/test_experiments.py::test_an_experiment_in_a_temporary_copy_compiles_the_kernel_of_its_snapshot"
    ),
    "dvc exp show": BETA,
    "vae compare": BETA,
    "vae compare aevb_mlp_2d no_kl": COMPARED,
    "output: run         beta          ELBO    rate  distortion           NLL  active  min": COMPARED,
    "vae compare HEAD~1 HEAD": COMMITS,
    "vae compare main NAME vae_k5 --html out/comparison.html": (
        f"{PIPELINE}/test_comparison_page.py::test_the_verdict_comes_first_and_pictures_are_side_by_side"
    ),
    "dvc exp run": KILLED,
    "git switch -": KILLED,
    "git restore -SW .": RECIPE,
    "python -m pipeline.studies.restorable": BETA,
    "git restore --staged --worktree params.yaml dvc.lock results/train results/evaluate results/plot": BETA,
    "git clean --quiet --force results/train results/evaluate results/plot": BETA,
    "dvc checkout --force --allow-missing": BETA,
    "dvc checkout --allow-missing": RECIPE,
    "dvc exp run --queue -S 'beta=0.25,0.5,1,2,4' -S train.epochs=1": QUEUE,
    "dvc queue start -j 2": QUEUE,
    "dvc queue status": QUEUE,
    "dvc queue logs NAME": QUEUE,
    "dvc exp apply NAME": OWN_DATA,
    "dvc exp run --name lower-beta -S beta=0.5": BETA,
    "dvc exp push origin lower-beta": CLONES,
    "dvc exp list origin": CLONES,
    "dvc exp pull origin lower-beta": CLONES,
    "dvc exp apply lower-beta": CLONES,
    "dvc metrics diff HEAD~1 HEAD": COMMITS,
    "dvc params diff HEAD~1 HEAD": COMMITS,
    "dvc plots show": PLOTS,
    "dvc plots diff HEAD~1 HEAD": PLOTS,
    "dvc metrics diff HEAD~1 HEAD --targets results/benchmarks/metrics.json": KERNEL,
    "dvc plots diff HEAD~1 HEAD --targets results/benchmarks/figures": KERNEL,
    "dvc exp run --queue -S 'beta=0.1,0.3,1,3,10' -S train.epochs=5 -S evaluate.importance_samples=100": QUEUE,
    "dvc exp run --queue -S 'seed=1,2,3,4,5'": QUEUE,
    "dvc exp run --run-all --jobs 2": QUEUE,
    "python -m pipeline.studies.rate_distortion out": (
        f"{PIPELINE}/test_experiments.py::test_rate_and_distortion_of_experiments_are_plotted"
    ),
    "python -m pipeline.studies.seeds": SEEDS,
    "dvc exp run -S train.processes=2": f"{PIPELINE}/test_distributed.py::test_two_processes_reproduce_the_curves_of_one",
    "torchrun --nproc-per-node 2 -m pipeline.train": (
        f"{PIPELINE}/test_distributed.py::test_a_run_resumes_with_two_processes_under_torchrun_with_empty_shares_and_autograd"
    ),
    "torchrun --nnodes 2 --node-rank 0 --master-addr HOST -m pipeline.train": MACHINES,
    "torchrun --nnodes 2 --node-rank 1 --master-addr HOST -m pipeline.train": MACHINES,
    # Own images
    "dvc add data/raw/mine": OWN_DATA,
    'git commit -m "My images" data/raw': OWN_DATA,
    "dvc exp run -S data.path=data/raw/mine": OWN_DATA,
    # The model in use
    "python -m pipeline": PULL,
    "vae COMMAND --help": f"{PIPELINE}/trained/test_commands.py::test_the_help_of_every_command_has_an_example",
    "vae sample -n 64 --seed 1 -o out/grid.png": VAE,
    "vae reconstruct data/prepared/test_images.npy:17 -o out/": VAE,
    "vae interpolate data/prepared/test_images.npy:0 data/prepared/test_images.npy:1 -o out/way.png": VAE,
    "vae encode data/prepared/test_images.npy -o out/latents.parquet": VAE,
    "vae score data/prepared/test_images.npy -o out/scores.csv": VAE,
    "dvc exp run -S model.condition=label -S model.latent_dim=2": BETA,
    "dvc exp run -S 'model.top={hidden: [100, 100], latent_dim: 50}'": BETA,
    "vae sample -n 64 --class 7 -o out/sevens.png": CLASS,
    "vae score data/prepared/test_images.npy --class data/prepared/test_labels.npy -o out/scores.csv": VAE,
    "vae info": VAE,
    "vae export --format onnx -o out/": (
        f"{PIPELINE}/trained/test_commands.py::test_onnxruntime_matches_pytorch_for_any_batch_size"
    ),
    "python: import pipeline": README,
    "dvc remote add --default storage /some/folder": PULL,
    "dvc push": PULL,
    "dvc pull": PULL,
    "dvc pull models/default/vae.safetensors models/default/MODEL_CARD.md": PULL,
    # Recipes
    "python3 -c": "tests/test_setup.py::test_make_recipe_asks_for_a_name_before_anything_is_installed",
    "python -m pipeline.config.recipes": RECIPE,
    "dvc repro plot@aevb_mlp_2d": RECIPE,
    "dvc repro plot@autoencoder": RECIPES,
    "dvc repro plot@categorical_decoder": RECIPES,
    "dvc repro plot@gaussian_decoder": RECIPES,
    "dvc repro plot@iwae_k5": RECIPES,
    "dvc repro plot@no_kl": RECIPES,
    "dvc repro plot@pytorch_mlp_20d": RECIPES,
    "dvc repro plot@vae_k5": RECIPES,
    "dvc exp run plot@aevb_mlp_2d -S aevb_mlp_2d.yaml:train.epochs=5": RECIPE,
    # Worked examples, and maps of the code
    "output: --- a/pipeline/config/params.py": WORKED,
    "output: --- a/pipeline/figures/decodings.py": WORKED,
    "dvc exp run -S model.likelihood=laplace": WORKED,
    "dvc exp run -S train.optimizer=lion -S train.learning_rate=0.0001": WORKED,
    "output: about:": f"{PIPELINE}/test_worked_examples.py::test_the_recipe_example_works",
    "output: prerequisites  __main__  check  prepare  train  evaluate  plot": LAYERS,
    # The operator
    "python: import torch, vae_ext": README,
    "output: vae_ext on torch 2.13.0+cpu, Python 3.11.7, x86_64": (
        f"{PIPELINE}/test_readme.py::test_the_backend_report_is_as_shown"
    ),
    "pip install .": "tests/vae_ext/test_backend.py::test_pip_install_gives_a_working_module_outside_the_checkout",
    "pip install '.[cuda]'": "tests/vae_ext/test_cuda_source.py::test_pips_toolkit_alone_compiles_and_links_the_kernels",
    "python -m tests.standalone.sanitize": "tests/vae_ext/test_emulated_kernels.py::test_emulated_kernels_pass_the_sanitizers",
    "python3 -m tests.benchmarks.gpu --budget 360": (f"{BENCHMARKS}/test_gpu.py::test_make_gpu_reports_a_missing_gpu_at_once"),
    "python3 -m tests.benchmarks.gpu --budget 1200": (f"{BENCHMARKS}/test_gpu.py::test_make_gpu_reports_a_missing_gpu_at_once"),
    # Benchmarks
    "python -m tests.benchmarks.measure --seconds 60": TABLE,
    "python -m tests.benchmarks.measure --full": TABLE,
    "python -m tests.benchmarks.measure --report .benchmarks/again.json": RECORD,
    "python -m tests.benchmarks.report .benchmarks/report.json .benchmarks/again.json": RECORD,
    "git add .": COMMITS,
    "git add results": COMMITS,
    'git commit -m "Benchmarks"': COMMITS,
    "python -m tests.benchmarks.compare --base HEAD": (
        f"{BENCHMARKS}/test_compare.py::test_the_operator_is_compared_with_that_of_a_commit_in_alternating_turns"
    ),
    "python -m tests.benchmarks.step_profile": PROFILE,
    "python -m tests.benchmarks.convolutions": (
        f"{BENCHMARKS}/test_convolutions.py::test_both_sides_alternate_in_each_precision_of_the_processor"
    ),
    "python3 -m venv .venv-pythae": SETUP,
    ".venv-pythae/bin/pip install --quiet --disable-pip-version-check torch==2.13.0": SETUP,
    ".venv-pythae/bin/pip install --quiet --disable-pip-version-check pythae==0.1.2": SETUP,
    "python -m tests.benchmarks.against_pythae --python .venv-pythae/bin/python": (
        f"{BENCHMARKS}/test_compare.py::test_make_bench_pythae_alternates_with_pythaes_process"
    ),
}
