"""The sections of the results, a file each: out of the files beside this folder, Markdown line by line."""
