"""The verbs: one file each, with its public function and its flags."""
