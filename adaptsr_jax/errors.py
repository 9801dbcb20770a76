"""What a user can mend: one sentence, exit code 2."""


class UserError(ValueError):
  """A fault in what was given (file, folder, field); its text is one clear sentence for the user."""
