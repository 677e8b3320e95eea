"""One module a layer; what each of them is, is in `strandline.tools.crash.layer`."""
