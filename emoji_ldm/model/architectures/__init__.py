"""Network architectures: one small class for each kind of diffusers pipeline that can be trained."""
