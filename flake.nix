{
  description = "Atreides: Superfloat numbers, quantization and a bit-exact systolic array";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { nixpkgs, ... }:
    let
      systems = [
        "x86_64-linux"
        "aarch64-linux"
      ];
      forEachSystem =
        make: nixpkgs.lib.genAttrs systems (system: make nixpkgs.legacyPackages.${system});
    in
    {
      # The system packages of scripts/setup.sh. The Python packages stay pip's, pinned in
      # pyproject.toml, so that `make demo` and `make test` mean the same inside and outside.
      devShells = forEachSystem (pkgs: {
        default = pkgs.mkShell {
          packages = [
            pkgs.python312
            pkgs.gcc
            pkgs.gnumake
            pkgs.git
            pkgs.perl
            pkgs.iverilog
          ];
          # The wheels are built for other distributions: this is where they look for libraries.
          LD_LIBRARY_PATH = pkgs.lib.makeLibraryPath [
            pkgs.stdenv.cc.cc.lib
            pkgs.zlib
            pkgs.python312
          ];
        };
      });
    };
}
