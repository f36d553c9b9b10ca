"""What can go wrong in a job, as a tree; the engine's own errors are in `dstc_engine.errors`.

DstcError
├── UserError            one clear line on the terminal, exit code 2
│   ├── ManifestError    a manifest that cannot be read, or has other columns than expected
│   ├── SettingsError    arguments that do not go together
│   ├── StorageError     a URL that cannot be used
│   └── RunFolderError   an output folder that belongs to something else
└── JobError             the job itself broke; the same command continues; exit code 1
    └── OutputError      results cannot be written any more
"""

from dstc_engine.errors import DstcError, UserError


class ManifestError(UserError):
    """A manifest that cannot be read, or whose columns are not those expected."""


class SettingsError(UserError):
    """Arguments that cannot be used, or not together."""


class StorageError(UserError):
    """A URL that cannot be used: unknown protocol, missing driver, credentials inside."""


class RunFolderError(UserError):
    """An output folder that belongs to another run, or to something that is no run."""


class JobError(DstcError):
    """The job broke. What is done stays done; the same command continues."""


class OutputError(JobError):
    """Results cannot be written: disk full, access denied, or storage gone for too long."""
